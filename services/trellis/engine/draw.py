"""Inverts distributions over a vocabulary, to draw from them.

Shapes: S rows, V vocabulary, W the same filled up to whole blocks, B blocks, N places.
"""

from typing import Final

import torch
from torch import Tensor

_BLOCK: Final = 256


def filled(logits_SV: Tensor) -> Tensor:
    """A copy in fp32, filled up to whole blocks with tokens that can't be."""
    rows, width = logits_SV.shape
    filled_SW = logits_SV.new_empty((rows, -(-width // _BLOCK) * _BLOCK), dtype=torch.float32)
    filled_SW[:, :width] = logits_SV
    filled_SW[:, width:] = -torch.inf
    return filled_SW


def totals(weights_SW: Tensor) -> Tensor:
    """The sum of each row's weights, in fp64."""
    return _block_ends(weights_SW)[:, -1]


def draw(weights_SW: Tensor, uniforms_S: Tensor) -> Tensor:
    """The token of each row at which the running sum of its weights first exceeds its number from [0, 1) of the total.

    A token of weight 0.0 is never drawn. Weights are fp32, numbers fp64.
    """
    ends_SB = _block_ends(weights_SW)
    return _invert(weights_SW, ends_SB, ends_SB[:, -1] * uniforms_S, right=True)


def place_of(weights_SW: Tensor, targets_S: Tensor) -> Tensor:
    """The place in each row at which the running sum of its weights first reaches its target; the last one if none."""
    return _invert(weights_SW, _block_ends(weights_SW), targets_S, right=False)


def _block_ends(weights_SW: Tensor) -> Tensor:
    return weights_SW.view(weights_SW.shape[0], -1, _BLOCK).sum(-1).double().cumsum(-1)


def _invert(weights_SW: Tensor, ends_SB: Tensor, targets_S: Tensor, *, right: bool) -> Tensor:
    # By blocks first and then within one: a running sum over all the vocabulary takes longer than all else together.
    rows = weights_SW.shape[0]
    block_S, left_S = _find(ends_SB, targets_S, right=right)
    inside_SN = weights_SW.view(rows, -1, _BLOCK)[torch.arange(rows, device=weights_SW.device), block_S]
    place_S, _ = _find(inside_SN.double().cumsum(-1), left_S, right=right)
    return block_S * _BLOCK + place_S


def _find(ends_SN: Tensor, targets_S: Tensor, *, right: bool) -> tuple[Tensor, Tensor]:
    """The first place whose end is above the target (or at it), and how far the target is above the end before."""
    # A target may be rounded up to the very end, where nothing is above it.
    below_S1 = torch.nextafter(ends_SN[:, -1:], ends_SN.new_zeros(()))
    targets_S1 = torch.minimum(targets_S[:, None], below_S1)
    place_S1 = torch.searchsorted(ends_SN, targets_S1, right=right).clamp_(max=ends_SN.shape[1] - 1)  # NaN has no place
    before_S1 = ends_SN.gather(-1, (place_S1 - 1).clamp(min=0)) * (place_S1 > 0)
    return place_S1.squeeze(-1), (targets_S1 - before_S1).squeeze(-1)
