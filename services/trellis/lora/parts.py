"""The parts of a fused product, whose gradients are put together without a copy where they lie together already."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def parts_of(y: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """y.split(sizes, -1): views, not to be written into."""
    if not (torch.is_grad_enabled() and y.requires_grad):
        return torch.split(y, list(sizes), -1)
    parts: tuple[Tensor, ...] = _Split.apply(y, tuple(sizes))  # type: ignore[no-untyped-call]
    return parts


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(True)  # zeros for a part that nothing used
        return torch.split(y, list(sizes), -1)

    @staticmethod
    @once_differentiable
    def backward(_: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _side_by_side(grads), None


def _side_by_side(parts: Sequence[Tensor]) -> Tensor:
    """torch.cat(parts, -1), as a view where they are neighbours in memory."""
    first, place = parts[0], parts[0].storage_offset()
    for part in parts:
        is_next = part.storage_offset() == place and part.stride() == first.stride() and part.stride(-1) == 1
        if not is_next or part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr():
            return torch.cat(list(parts), -1)
        place += part.shape[-1]
    return first.as_strided((*first.shape[:-1], place - first.storage_offset()), first.stride())
