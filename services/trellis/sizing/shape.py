"""The sizes of a base model that all else follows from."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final


class ShapeError(ValueError):
    """A config does not say what is needed, or says something that this arithmetic is not for."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder in the manner of Llama: attention with grouped heads, a gated MLP, no biases worth counting."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool = False
    """Whether the output head is the input embedding."""

    @property
    def linear_values(self) -> int:
        """S: the sum of in- and out-features of all linears that an adapter may change; one rank row's numbers."""
        return self.layers * sum(map(sum, self.linears.values()))

    @property
    def linears(self) -> Mapping[str, tuple[int, int]]:
        """In- and out-features of a layer's linears that an adapter may change."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def embedding(self) -> int:
        """Parameters of the input embedding, of which a token reads one row."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """P: all of them."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        attention = 2 * self.hidden * queries + 2 * self.hidden * keys
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        return self.layers * layer + self.embedding * (1 if self.tied else 2) + self.hidden

    @property
    def read_parameters(self) -> int:
        """What a step reads of them: all but the input embedding, unless that is the head, too."""
        return self.parameters if self.tied else self.parameters - self.embedding

    @property
    def kv_values(self) -> int:
        """Numbers that a token leaves in the KV cache."""
        return 2 * self.layers * self.kv_heads * self.head_size

    def lora_parameters(self, rank: int, targets: Collection[str] = ()) -> int:
        """Numbers of an adapter of this rank on these linears, on all where none is named."""
        changed = [sizes for name, sizes in self.linears.items() if not targets or name in targets]
        return rank * self.layers * sum(map(sum, changed))


def shape_of_config(config: Mapping[str, Any]) -> ModelShape:
    """The shape in a config.json of transformers. Raises ShapeError."""
    text = config.get("text_config") or config
    if any(text.get(name) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        raise ShapeError("The config is that of a mixture of experts, which this arithmetic is not for.")
    heads, hidden = _count(text, "num_attention_heads"), _count(text, "hidden_size")
    return ModelShape(
        layers=_count(text, "num_hidden_layers"),
        hidden=hidden,
        intermediate=_count(text, "intermediate_size"),
        heads=heads,
        kv_heads=int(text.get("num_key_value_heads") or heads),
        head_size=int(text.get("head_dim") or hidden // heads),
        vocabulary=_count(text, "vocab_size"),
        tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
    )


def _count(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if type(value) is not int or value < 1:
        raise ShapeError(f"The config has no {name!r} that is a whole number above 0: is it of a model like Llama?")
    return value


BASES: Final[Mapping[str, ModelShape]] = {
    "llama-3.2-1b": ModelShape(16, 2048, 8192, 32, 8, 64, 128256, tied=True),
    "llama-3.1-8b": ModelShape(32, 4096, 14336, 32, 8, 128, 128256),
    "llama-3.1-70b": ModelShape(80, 8192, 28672, 64, 8, 128, 128256),
}
"""Shapes of well-known models, from their config.json."""
