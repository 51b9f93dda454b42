"""Which linears of a base model read the same input, so that one product computes them all."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

_FUSED: Final = {"qkv": ("q_proj", "k_proj", "v_proj"), "gate_up": ("gate_proj", "up_proj")}
"""Siblings that every family of transformers feeds with one tensor, by the name of their fusion."""


@dataclass(frozen=True, slots=True)
class LoraGroup:
    """Linears that read the same input, computed as one product."""

    name: str
    """Such as `model.layers.0.self_attn.qkv`; a linear that stands alone has its own path."""
    parts: tuple[str, ...]
    """Module paths, in the order of the fused output."""
    in_features: int
    out_features: tuple[int, ...]
    """Of each part."""

    @property
    def columns(self) -> int:
        """Features of the fused output."""
        return sum(self.out_features)

    @property
    def row_values(self) -> int:
        """Numbers that one rank row holds: a row of A for each part, and one of B across all parts' outputs."""
        return len(self.parts) * self.in_features + self.columns


def find_groups(linear_shapes: Mapping[str, tuple[int, int]]) -> tuple[LoraGroup, ...]:
    """The groups of a base's linears, given their (out_features, in_features) by module path, as BaseFacts has them."""
    fused = {siblings[0]: (name, siblings) for name, siblings in _siblings(linear_shapes)}
    later = {path for _, siblings in fused.values() for path in siblings[1:]}
    groups = []
    for path in linear_shapes:
        if path in later:
            continue
        name, parts = fused.get(path, (path, (path,)))
        outs = tuple(linear_shapes[part][0] for part in parts)
        groups.append(LoraGroup(name, parts, linear_shapes[path][1], outs))
    return tuple(groups)


def _siblings(linear_shapes: Mapping[str, tuple[int, int]]) -> Iterator[tuple[str, tuple[str, ...]]]:
    for path in linear_shapes:
        parent = path.rpartition(".")[0]
        for name, ends in _FUSED.items():
            paths = tuple(f"{parent}.{end}" if parent else end for end in ends)
            present = all(other in linear_shapes for other in paths)
            if path == paths[0] and present and len({linear_shapes[other][1] for other in paths}) == 1:
                yield (f"{parent}.{name}" if parent else name), paths
