"""An adapter in the host's memory, laid out as the bank has it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from trellis.artifacts import ArtifactError
from trellis.lora.groups import LoraGroup
from trellis.lora.layout import Layout
from trellis.lora.weights import LoraPair, LoraWeights


@dataclass(frozen=True, slots=True)
class HostAdapter:
    """One blob an adapter, so that loading it onto the device is one copy."""

    digest: str
    blob: Tensor
    layout: Layout
    """Of the blob."""
    scales: tuple[tuple[float, ...], ...]
    """alpha / rank (rank-stabilised: alpha / √rank) for each group and part; 0 where the part is left alone."""

    @property
    def values(self) -> int:
        """Numbers that it takes in a bank."""
        return self.layout.values

    @property
    def nbytes(self) -> int:
        """Bytes of the blob."""
        return self.blob.nbytes

    @classmethod
    def pack(cls, weights: LoraWeights, groups: Sequence[LoraGroup], dtype: torch.dtype, pin: bool = False) -> Self:
        """Lay weights out for a bank of these groups.

        Raises ArtifactError (`unknown_tensor`, `wrong_shape`) for a module that is in none of them or has other sizes, and
        (`not_finite`) for a number that, alone or scaled, is none in the bank's dtype: nothing of the kind ever lies
        beside another tenant's weights.
        """
        unknown = weights.pairs.keys() - {part for group in groups for part in group.parts}
        if unknown:
            message = f"The adapter changes {min(unknown)!r}, which the base model does not have."
            raise ArtifactError("unknown_tensor", message)
        layout = Layout.of({part: pair.rank for part, pair in weights.pairs.items()}, groups)
        blob = torch.zeros(layout.values, dtype=dtype, pin_memory=pin)
        for group, places in zip(groups, layout.places, strict=True):
            for part, out_features, place in zip(group.parts, group.out_features, places, strict=True):
                pair = weights.pairs.get(part)
                if pair is not None:
                    _check_pair(part, pair, (group.in_features, out_features), dtype)
                    a_RI, b_RO = sides(blob, place, pair.rank, group.in_features, out_features)
                    a_RI.copy_(pair.a_RI)
                    b_RO.copy_(pair.b_OR.T)
        return cls(weights.digest, blob, layout, tuple(_scales(weights, group) for group in groups))


def sides(values_V: Tensor, place: int, rank: int, in_features: int, out_features: int) -> tuple[Tensor, Tensor]:
    """A (rank, in) and B transposed (rank, out) of a part that begins there, as views."""
    middle = place + rank * in_features
    a_RI = values_V[place:middle].view(rank, in_features)
    return a_RI, values_V[middle : middle + rank * out_features].view(rank, out_features)


def _check_pair(module: str, pair: LoraPair, sizes: tuple[int, int], dtype: torch.dtype) -> None:
    found, wanted = (pair.a_RI.shape, pair.b_OR.shape), ((pair.rank, sizes[0]), (sizes[1], pair.rank))
    if found != wanted or not pair.rank:
        message = f"lora_A and lora_B of {module!r} have the shapes {list(found[0])} and {list(found[1])}"
        raise ArtifactError("wrong_shape", f"{message}, but the linear has {sizes[0]} inputs and {sizes[1]} outputs.")
    factor = max(1.0, abs(pair.scaling))
    most = torch.finfo(dtype).max
    if not (math.isfinite(pair.scaling) and all(_largest(side) * factor <= most for side in (pair.a_RI, pair.b_OR))):
        message = f"The weights for {module!r}, alone or scaled, hold numbers that {dtype} does not have"
        raise ArtifactError("not_finite", f"{message}; train it anew with a lower learning rate.")


def _largest(side: Tensor) -> float:
    """The largest magnitude; NaN when there is one."""
    low, high = torch.aminmax(side)
    return max(-float(low), float(high))


def _scales(weights: LoraWeights, group: LoraGroup) -> tuple[float, ...]:
    pairs: list[LoraPair | None] = [weights.pairs.get(part) for part in group.parts]
    return tuple(0.0 if pair is None else pair.scaling for pair in pairs)
