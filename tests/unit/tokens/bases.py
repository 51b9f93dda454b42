"""Small base models, built on the spot: three kinds of tokenizer, and the templates of well-known families."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "Hello there, how are you today? I am fine, thank you very much.",
    "The user asks a question and the assistant gives an answer.",
    "system prompt: you are a helpful assistant. tools, names and arguments",
    "caf\u00e9 na\u00efve \u00fcber \u4f60\u597d 42 1000\n\nnew paragraph   with   spaces",
] * 3

CHATML = """
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{{- '\n<tool_call>' + call.function.name + ' ' + (call.function.arguments | tojson) + '</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""

CHATML_GENERATION = """
{%- if tools %}{{ '<|im_start|>tools\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {{- '<|im_start|>assistant\n' }}
        {%- generation %}{{ message.content }}{{ '<|im_end|>' }}{% endgeneration %}
        {{- '\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""

LLAMA3 = """
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}
    {{- '<|start|>' + message.role + '<|stop|>\n\n' + (message.content | trim) + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start|>assistant<|stop|>\n\n' }}
{%- endif %}
"""

# the turn's end is outside of the tag, and a space inside at its start
MISTRAL = """
{{- bos_token }}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('roles must alternate') }}
    {%- endif %}
    {%- if message.role == 'user' %}{{ '[INST] ' + message.content + ' [/INST]' }}
    {%- else %}{% generation %}{{ ' ' + message.content }}{% endgeneration %}{{ eos_token }}
    {%- endif %}
{%- endfor %}
"""

# shows the last answer's thoughts only, as several families do
FORGETFUL = """
{%- for message in messages %}
    {%- set content = message.content if loop.last else message.content.split('~')[-1] %}
    {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""

CHATML_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
LLAMA3_SPECIALS = ("<|begin|>", "<|start|>", "<|stop|>", "<|eot|>", "<|end|>")
MISTRAL_SPECIALS = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")


@cache
def byte_level(specials: tuple[str, ...]) -> str:
    """As in GPT-2, Llama 3 and Qwen: bytes, with white space in front of words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=alphabet, special_tokens=list(specials), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return str(tokenizer.to_str())


@cache
def sentence_piece(specials: tuple[str, ...]) -> str:
    """As in Llama 2 and Mistral: a space in front of the text, and bytes where a character is unknown."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=520, special_tokens=[*specials, *bytes_], limit_alphabet=60, show_progress=False
    )
    tokenizer.train_from_iterator([text.replace("\n", " ") for text in CORPUS], trainer)
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in specials]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    number = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", number)])
    return str(tokenizer.to_str())


@cache
def words(specials: tuple[str, ...]) -> str:
    """Whole words only: here a special token's name is a word like any other."""
    vocabulary = {word: number for number, word in enumerate(("[UNK]", *specials, "hi", "yes", "user", "assistant"))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(special, special=True) for special in specials])
    return str(tokenizer.to_str())


def write_base(
    folder: Path, tokenizer: str, template: str | None, *, bos: str | None = None, eos: str | None = None
) -> Path:
    """A base model's folder with a tokenizer and a chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    named = {"bos_token": bos, "eos_token": eos}
    config |= {key: value for key, value in named.items() if value}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def chatml(folder: Path, template: str | None = CHATML) -> Path:
    return write_base(folder, byte_level(CHATML_SPECIALS), template, eos="<|endoftext|>")


def llama3(folder: Path) -> Path:
    return write_base(folder, byte_level(LLAMA3_SPECIALS), LLAMA3, bos="<|begin|>", eos="<|end|>")


def mistral(folder: Path) -> Path:
    return write_base(folder, sentence_piece(MISTRAL_SPECIALS), MISTRAL, bos="<s>", eos="</s>")
