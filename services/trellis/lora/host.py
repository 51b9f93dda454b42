"""An adapter in the host's memory, laid out as the bank has it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from trellis.artifacts import ArtifactError
from trellis.lora.groups import LoraGroup
from trellis.lora.weights import LoraPair, LoraWeights


@dataclass(frozen=True, slots=True)
class HostAdapter:
    """One blob an adapter, so that loading it onto the device is one copy.

    For each group in order: A of shape (rows, parts, in), then B of shape (rows, out-features of all parts); what the
    adapter leaves alone is zero and has the scale 0.
    """

    digest: str
    rows: int
    blob: Tensor
    scales: tuple[tuple[float, ...], ...]
    """alpha / rank (rank-stabilised: alpha / √rank) for each group and part."""

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
        rows = weights.rows
        blob = torch.zeros(rows * sum(group.row_values for group in groups), dtype=dtype, pin_memory=pin)
        adapter = cls(weights.digest, rows, blob, tuple(_scales(weights, group) for group in groups))
        for group, (a_RPI, b_RO) in zip(groups, split_blob(blob, groups, rows), strict=True):
            for number, (part, b_Ro) in enumerate(zip(group.parts, b_RO.split(group.out_features, 1), strict=True)):
                pair = weights.pairs.get(part)
                if pair is not None:
                    _check_pair(part, pair, (group.in_features, b_Ro.shape[1]), dtype)
                    a_RPI[: pair.rank, number] = pair.a_RI
                    b_Ro[: pair.rank] = pair.b_OR.T
        return adapter


def split_blob(blob: Tensor, groups: Sequence[LoraGroup], rows: int) -> list[tuple[Tensor, Tensor]]:
    """The blob's A (rows, parts, in) and B (rows, outs) of each group, as views."""
    sizes = [size for g in groups for size in (rows * len(g.parts) * g.in_features, rows * g.columns)]
    pieces = iter(blob.split(sizes))
    return [(next(pieces).view(rows, len(g.parts), g.in_features), next(pieces).view(rows, g.columns)) for g in groups]


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
