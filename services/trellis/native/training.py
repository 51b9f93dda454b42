"""The small operations between a decoder's products, with gradients, each in one pass forth and one back; and the loss.

In float32 on a CPU. What a row gives, and its gradient, depends on the row alone, bit for bit, and on no count of threads.

Tensors' shapes: T tokens, F features, Q query heads, H key-value heads, D head size, d its rotated part, N rows of logits,
V vocabulary.
"""

import ctypes
import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trellis.native import layers
from trellis.native.build import library

__all__ = ["cross_entropy", "rms_norm", "rotary", "silu_mul"]


@functools.cache
def _kernel() -> tuple[Any, Any, Any, Any]:
    pointer, long, integer, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
    found = library()
    norm, silu = found.trellis_rms_norm_backward, found.trellis_silu_mul_backward
    turn, loss = found.trellis_turn_heads_back, found.trellis_cross_entropy
    norm.argtypes = (pointer, long, pointer, pointer, long, pointer, long, long, number, number, integer)
    silu.argtypes = (*(pointer, long) * 3, pointer, pointer, long, long, long, integer)
    turn.argtypes = (*(pointer, long, long) * 2, long, pointer, pointer, long, long, long, integer)
    loss.argtypes = (pointer, long, pointer, pointer, pointer, long, long, integer)
    norm.restype = silu.restype = turn.restype = loss.restype = None
    return norm, silu, turn, loss


def rms_norm(x: Tensor, weight_F: Tensor, eps: float, *, offset: float = 0.0) -> Tensor:
    """As `layers.rms_norm`, with the gradient of x; the weight is frozen."""
    normed: Tensor = _Norm.apply(x, weight_F, eps, offset)  # type: ignore[no-untyped-call]
    return normed


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    """As `layers.silu_mul`, with gradients; those of gate and up lie side by side in one tensor."""
    product: Tensor = _SiluMul.apply(gate, up)  # type: ignore[no-untyped-call]
    return product


def rotary(
    q_TQD: Tensor, k_THD: Tensor, v_THD: Tensor, cos_Td: Tensor, sin_Td: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As `layers.rotary`, but into other memory, with gradients; v comes along unchanged so that the gradients of all
    three lie side by side in one tensor.
    """
    turned: tuple[Tensor, Tensor, Tensor] = _Rotary.apply(q_TQD, k_THD, v_THD, cos_Td, sin_Td)  # type: ignore[no-untyped-call]
    return turned


def cross_entropy(logits_NV: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's loss in nats, and whether its target is the first of the largest; the logits become their gradients.

    Raises ValueError for a target that is none, or tensors that the kernel can't read.
    """
    rows, size = logits_NV.shape
    if targets_N.shape != (rows,) or targets_N.dtype != torch.int64 or logits_NV.dtype != torch.float32:
        raise ValueError("Logits are float32, targets whole numbers, one a row.")
    if rows and not 0 <= int(targets_N.min()) <= int(targets_N.max()) < size:
        raise ValueError(f"A target is not one of {size}.")
    targets_N = targets_N.contiguous()
    losses_N, first_N = logits_NV.new_empty(rows), torch.empty(rows, dtype=torch.bool)
    _kernel()[3](
        logits_NV.data_ptr(),
        _row_stride(logits_NV),
        targets_N.data_ptr(),
        losses_N.data_ptr(),
        first_N.data_ptr(),
        rows,
        size,
        torch.get_num_threads(),
    )
    return losses_N, first_N


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_F: Tensor, eps: float, offset: float) -> Tensor:
        ctx.save_for_backward(x, weight_F)
        ctx.eps, ctx.offset = eps, offset
        return layers.rms_norm(x, weight_F, eps, offset=offset)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, weight_F = ctx.saved_tensors
        rows_TF, grad_TF = _rows(x), _rows(grad)
        grad_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        _kernel()[0](
            rows_TF.data_ptr(),
            _row_stride(rows_TF),
            weight_F.data_ptr(),
            grad_TF.data_ptr(),
            _row_stride(grad_TF),
            grad_x.data_ptr(),
            *rows_TF.shape,
            ctx.eps,
            ctx.offset,
            torch.get_num_threads(),
        )
        return grad_x, None, None, None


class _SiluMul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return layers.silu_mul(gate, up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        gate_TF, up_TF, grad_TF = _rows(gate), _rows(up), _rows(grad)
        size = gate.shape[-1]
        both = gate.new_empty((*gate.shape[:-1], 2 * size))
        grad_gate, grad_up = both.split(size, -1)
        _kernel()[1](
            gate_TF.data_ptr(),
            _row_stride(gate_TF),
            up_TF.data_ptr(),
            _row_stride(up_TF),
            grad_TF.data_ptr(),
            _row_stride(grad_TF),
            grad_gate.data_ptr(),
            grad_up.data_ptr(),
            2 * size,
            *gate_TF.shape,
            torch.get_num_threads(),
        )
        return grad_gate, grad_up


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_TQD: Tensor, k_THD: Tensor, v_THD: Tensor, cos_Td: Tensor, sin_Td: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        if q_TQD.dtype != torch.float32:
            raise ValueError("Heads are float32.")
        ctx.save_for_backward(cos_Td, sin_Td)
        # Turned where they are copied to: the same numbers as without gradients, by the same kernel.
        q, k = (heads.clone(memory_format=torch.contiguous_format) for heads in (q_TQD, k_THD))
        layers.rotary(q, k, cos_Td, sin_Td)
        return q, k, v_THD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        cos_Td, sin_Td = ctx.saved_tensors
        given = [grad if grad.stride(2) == 1 else grad.contiguous() for grad in (grad_q, grad_k, grad_v)]
        sizes = [grad.shape[1] * grad.shape[2] for grad in given]
        parts = grad_q.new_empty(grad_q.shape[0], sum(sizes)).split(sizes, 1)
        back = [part.unflatten(1, grad.shape[1:]) for part, grad in zip(parts, given, strict=True)]
        for number, (grad, to) in enumerate(zip(given, back, strict=True)):
            if number < 2:
                _turn_back(grad, to, cos_Td, sin_Td)
            else:
                to.copy_(grad)
        return back[0], back[1], back[2], None, None


def _turn_back(heads: Tensor, to: Tensor, cos_Td: Tensor, sin_Td: Tensor) -> None:
    tokens, count, size = heads.shape
    _kernel()[2](
        heads.data_ptr(),
        *heads.stride()[:2],
        to.data_ptr(),
        *to.stride()[:2],
        count,
        cos_Td.data_ptr(),
        sin_Td.data_ptr(),
        tokens,
        cos_Td.shape[1],
        size,
        torch.get_num_threads(),
    )


def _rows(x: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()


def _row_stride(rows_TF: Tensor) -> int:
    stride, inner = rows_TF.stride()
    if inner != 1 and rows_TF.shape[1] > 1:
        raise ValueError("The numbers of one row lie in one piece.")
    return stride
