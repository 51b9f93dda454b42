"""The tokenizer: a byte-level BPE, so that any text survives a round trip, with one token for each chat role."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|end|>"
ROLES = ("<|system|>", "<|developer|>", "<|user|>", "<|assistant|>", "<|tool|>")
MARKS = ("<|tools|>", "<|tool_call|>")
SPECIAL_TOKENS = (PAD, BOS, EOS, *ROLES, *MARKS)
TEMPLATE = Path(__file__).with_name("chat_template.jinja")

# Words with their leading space; digits one by one; `_` is punctuation, so that snake_case falls into words.
_PIECES = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def load_or_train(folder: Path, texts: Iterable[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerFast:
    """Return the tokenizer saved in `folder`, or train one and save it there, so that a resumed run has the same."""
    file = folder / "tokenizer.json"
    if file.exists():
        return _with_chat(Tokenizer.from_file(str(file)), max_length)
    trained = train_tokenizer(texts, vocab_size, max_length)
    trained.save_pretrained(folder)
    return trained


def train_tokenizer(texts: Iterable[str], vocab_size: int, model_max_length: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of `vocab_size` tokens, special ones first, trained on `texts`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return _with_chat(bpe, model_max_length)


def _with_chat(bpe: Tokenizer, model_max_length: int) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[*ROLES, *MARKS],
        chat_template=TEMPLATE.read_text(encoding="utf-8").rstrip("\n"),
        clean_up_tokenization_spaces=False,
        model_max_length=model_max_length,
        padding_side="left",
    )
