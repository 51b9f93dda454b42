"""The base models of the benchmark: shapes with random weights, and adapters for them."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from tests.tiny_llama import SPECIALS, TEMPLATE

_TARGETS: Final = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
_DONE: Final = "done"
_ALPHABET: Final = tuple(sorted(pre_tokenizers.ByteLevel.alphabet()))
LETTERS: Final = range(len(SPECIALS) + _ALPHABET.index("a"), len(SPECIALS) + _ALPHABET.index("z") + 1)
"""The ids of small letters, of which texts can be made that are read as so many tokens."""


def text_of(ids: Iterable[int]) -> str:
    """The text of LETTERS."""
    return "".join(chr(ord("a") + number - LETTERS.start) for number in ids)


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama's sizes."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    context: int = 2048
    rank: int = 8
    """Of its adapters, on all seven linears."""

    @property
    def plain_tokens(self) -> range:
        """Ids that are neither special nor bytes."""
        return range(len(SPECIALS) + len(_ALPHABET), self.vocabulary)

    @property
    def config(self) -> LlamaConfig:
        """As transformers has it."""
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            max_position_embeddings=self.context,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            tie_word_embeddings=True,
        )

    @property
    def linears(self) -> Mapping[str, tuple[int, int]]:
        """The (out, in) of each linear that adapters change, by module path."""
        head = self.hidden // self.heads
        attention = {"q": self.heads * head, "k": self.kv_heads * head, "v": self.kv_heads * head}
        each = {f"self_attn.{name}_proj": (out, self.hidden) for name, out in attention.items()}
        each |= {"self_attn.o_proj": (self.hidden, self.heads * head)}
        each |= {f"mlp.{name}_proj": (self.intermediate, self.hidden) for name in ("gate", "up")}
        each |= {"mlp.down_proj": (self.hidden, self.intermediate)}
        return {f"model.layers.{n}.{path}": shape for n in range(self.layers) for path, shape in each.items()}


REFERENCE: Final = Shape("llama-135m", 576, 30, 9, 3, 1536, 49152)
"""SmolLM-135M's."""
SMALL: Final = Shape("llama-7m", 256, 8, 8, 4, 704, 4096)
"""That of the base which Trellis ships."""


def write_base(shape: Shape, folder: Path) -> Path:
    """Random weights in bf16, with a tokenizer that can spell every token; kept when they are there already."""
    if (folder / _DONE).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(shape.config)
    model.to(torch.bfloat16)
    with torch.no_grad():
        model.model.embed_tokens.weight[2] = 0.0  # a logit of zero is never the highest: greedy answers never end
    model.save_pretrained(folder)
    _write_tokenizer(shape, folder)
    (folder / _DONE).touch()
    return folder


def write_adapters(shape: Shape, folder: Path, count: int) -> list[Path]:
    """Random adapters in bf16 as PEFT saves them; those that are there already are kept."""
    return [_write_adapter(shape, folder / f"adapter-{number:04}", number) for number in range(count)]


def _write_adapter(shape: Shape, folder: Path, seed: int) -> Path:
    if (folder / _DONE).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for path, (rows, columns) in shape.linears.items():
        for side, size in (("A", (shape.rank, columns)), ("B", (rows, shape.rank))):
            tensor = torch.randn(size, generator=generator) * 0.02
            tensors[f"base_model.model.{path}.lora_{side}.weight"] = tensor.to(torch.bfloat16)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(_adapter_config(shape), indent=2))
    (folder / _DONE).touch()
    return folder


def _adapter_config(shape: Shape) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": shape.name,
        "r": shape.rank,
        "lora_alpha": 2 * shape.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": list(_TARGETS),
    }


def _write_tokenizer(shape: Shape, folder: Path) -> None:
    tokens = [*SPECIALS, *_ALPHABET]
    tokens += [f"w{number}" for number in range(shape.vocabulary - len(tokens))]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<|pad|>", "bos_token": "<|bos|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, "eos_token": "<|end|>"}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
