"""Causal attention of short sequences that lie one after another, with gradients, in float32 on a CPU.

What a sequence gives, and its gradients, depend on the sequence alone, bit for bit, and on no count of threads.

Tensors' shapes: T tokens, Q query heads, H key-value heads, D head size, S sequences.
"""

import ctypes
import functools
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trellis.native.build import library

__all__ = ["HEAD_MULTIPLE", "packed_attention"]

HEAD_MULTIPLE: Final = 16
"""Head sizes are multiples of this."""
_EVERYTHING: Final = 1 << 40


@functools.cache
def _kernel() -> tuple[Any, Any]:
    pointer, long, integer, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
    forth, back = library().trellis_packed_attention, library().trellis_packed_attention_backward
    for function in (forth, back):
        function.argtypes = (pointer, pointer, pointer, *(long,) * 4, number, long, pointer, integer)
        function.restype = None
    return forth, back


def packed_attention(
    q_TQD: Tensor, k_THD: Tensor, v_THD: Tensor, spans_S2: Tensor, *, scale: float, window: int | None = None
) -> Tensor:
    """Each token of a sequence reads the sequence up to itself, the last `window` tokens if given: (T, Q, D).

    `spans_S2` is int32: each sequence's first row and its rows, one after another. Rows of none give zeros. Raises ValueError
    for tensors that do not fit.
    """
    heads, keys, size = q_TQD.shape[1], k_THD.shape[1], q_TQD.shape[2]
    if k_THD.shape != v_THD.shape or k_THD.shape[0] != q_TQD.shape[0] or k_THD.shape[2] != size or heads % keys:
        raise ValueError("Queries, keys and values are of one size, and query heads a multiple of key heads.")
    tensors = (q_TQD, k_THD, v_THD)
    if size % HEAD_MULTIPLE or any(x.dtype != torch.float32 or x.device.type != "cpu" for x in tensors):
        raise ValueError(
            f"Heads are float32, in the CPU's memory, and of a size that is a multiple of {HEAD_MULTIPLE}."
        )
    if spans_S2.dtype != torch.int32 or not spans_S2.is_contiguous() or spans_S2.shape[1:] != (2,):
        raise ValueError("The sequences' spans are int32, two numbers a sequence.")
    _check_spans(spans_S2.tolist(), len(q_TQD))
    q, k, v = (x if x.stride(2) == 1 else x.contiguous() for x in tensors)
    attended: Tensor = _Attention.apply(q, k, v, spans_S2, scale, _EVERYTHING if window is None else window)  # type: ignore[no-untyped-call]
    return attended


def _check_spans(spans: list[list[int]], tokens: int) -> None:
    end = 0
    for first, rows in spans:
        if first < end or rows < 0:
            raise ValueError("The sequences follow one another, and none begins before another's end.")
        end = first + rows
    if end > tokens:
        raise ValueError(f"The sequences end outside of the {tokens} tokens.")


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q_TQD: Tensor, k_THD: Tensor, v_THD: Tensor, spans_S2: Tensor, scale: float, window: int
    ) -> Tensor:
        tokens, heads, size = q_TQD.shape
        out_TQD, logs_TQ = q_TQD.new_zeros(tokens, heads, size), q_TQD.new_empty(tokens, heads)
        ctx.save_for_backward(q_TQD, k_THD, v_THD, out_TQD, logs_TQ, spans_S2)
        ctx.scale, ctx.window = scale, window
        _run(_kernel()[0], (q_TQD, k_THD, v_THD, out_TQD), logs_TQ, spans_S2, scale, window)
        return out_TQD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TQD: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        *given, logs_TQ, spans_S2 = ctx.saved_tensors
        grad_TQD = grad_TQD if grad_TQD.stride(2) == 1 else grad_TQD.contiguous()
        grads = [torch.zeros_like(x, memory_format=torch.contiguous_format) for x in given[:3]]
        _run(_kernel()[1], (*given, grad_TQD, *grads), logs_TQ, spans_S2, ctx.scale, ctx.window)
        return grads[0], grads[1], grads[2], None, None, None


def _run(
    kernel: Any, tensors: tuple[Tensor, ...], logs_TQ: Tensor, spans_S2: Tensor, scale: float, window: int
) -> None:
    pointers = (ctypes.c_void_p * len(tensors))(*(x.data_ptr() for x in tensors))
    strides = (ctypes.c_int64 * (2 * len(tensors)))(*(stride for x in tensors for stride in x.stride()[:2]))
    kernel(
        pointers,
        strides,
        spans_S2.data_ptr(),
        len(spans_S2),
        tensors[0].shape[1],
        tensors[1].shape[1],
        tensors[0].shape[2],
        scale,
        window,
        logs_TQ.data_ptr(),
        torch.get_num_threads(),
    )
