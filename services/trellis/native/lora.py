"""LoRA of a mixed batch on the CPU: each segment of rows with its own adapter, in one call.

Tensors' shapes: T tokens, I in-features, P parts fused into one product, O out-features of all parts, V numbers of all
adapters, S adapter slots, N segments.
"""

import ctypes
import functools
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final

import torch
from torch import Tensor

from trellis.native.build import library
from trellis.native.linear import PackedLinear

__all__ = ["LoraOperands", "SegmentTable", "adapted", "adapted_gradients", "add_gradients", "add_lora"]

DTYPES: Final = (torch.float32, torch.bfloat16)


class _Group(ctypes.Structure):
    """`Group` of lora.cpp."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
        ("ranks", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("parts", ctypes.c_int64),
        ("in_features", ctypes.c_int64),
        ("out_features", ctypes.c_int64),
    )


class LoraOperands:
    """The bank's tensors of one group of linears, with their addresses at hand; made once, it keeps the tensors alive.

    Where a slot's part begins in the values lies A, (rank, I), then B transposed, (rank, out-features of the part). The
    tensors are read at each call: what is written into them in place counts from the next call on. A part whose scale or
    rank is 0 for a slot is skipped. Places and ranks are believed: whoever writes them answers for them.
    """

    __slots__ = ("_keep", "address", "dtype", "in_features", "is_bf16", "out_features", "slots", "values")

    def __init__(
        self,
        values_V: Tensor,
        places_SP: Tensor,
        ranks_SP: Tensor,
        scale_SP: Tensor,
        in_features: int,
        out_features: Sequence[int],
    ) -> None:
        """Raises ValueError if the tensors do not fit each other or are none that the kernel can read."""
        tables = (places_SP, ranks_SP, scale_SP)
        slots, parts, stride = len(places_SP), len(out_features), places_SP.stride(0)
        if any(table.shape != (slots, parts) or table.stride(0) != stride for table in tables):
            raise ValueError("The places, ranks, scales and out-features are not of one group.")
        if tuple(table.dtype for table in tables) != (torch.int64, torch.int32, torch.float32):
            raise ValueError("Places are int64, ranks int32, scales float32.")
        if values_V.dtype not in DTYPES:
            raise ValueError("The adapters are float32 or bfloat16.")
        if values_V.device.type != "cpu" or any(table.device.type != "cpu" for table in tables):
            raise ValueError("The adapters are in the CPU's memory.")
        if not values_V.is_contiguous() or any(parts > 1 and table.stride(1) != 1 for table in tables):
            raise ValueError("The numbers, and a slot's places, ranks and scales, lie side by side.")
        offsets = torch.tensor([0, *accumulate(out_features)], dtype=torch.int32)
        addresses = (tensor.data_ptr() for tensor in (values_V, *tables, offsets))
        group = _Group(*addresses, stride, parts, in_features, sum(out_features))
        self._keep = (values_V, *tables, offsets, group)
        self.address: Final = ctypes.addressof(group)
        self.dtype: Final = values_V.dtype
        self.is_bf16: Final = int(values_V.dtype == torch.bfloat16)
        self.values: Final = values_V.numel()
        self.slots: Final = slots
        self.in_features: Final = in_features
        self.out_features: Final = sum(out_features)


class SegmentTable:
    """Which rows have which adapter, for all groups of one step.

    `table_N3` is int32: first token row, token rows, slot; a slot below 0 is the base alone.
    """

    __slots__ = ("_keep", "address", "count", "slots", "tokens")

    def __init__(self, table_N3: Tensor) -> None:
        """Raises ValueError for segments that overlap or are out of order: their rows would be written twice."""
        if table_N3.dtype != torch.int32 or table_N3.dim() != 2 or table_N3.shape[1] != 3:
            raise ValueError("A segment table is int32, three numbers a segment.")
        table_N3 = table_N3.contiguous()
        self.count: Final = len(table_N3)
        self.tokens, self.slots = 0, 0
        for token, tokens, slot in table_N3.tolist():
            if token < self.tokens or tokens < 0:
                raise ValueError("Segments follow one another, and none begins or counts below 0.")
            self.tokens, self.slots = token + tokens, max(self.slots, slot + 1)
        self._keep = table_N3
        self.address: Final = table_N3.data_ptr()


@functools.cache
def _kernel() -> Any:
    pointer, long, integer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    function = library().trellis_add_lora
    function.argtypes = (pointer, pointer, long, pointer, long, pointer, long, integer, integer)
    function.restype = None
    return function


def add_lora(y_TO: Tensor, x_TI: Tensor, operands: LoraOperands, segments: SegmentTable) -> None:
    """y += scale · (x Aᵀ) B in place, for each part's columns and each segment's rows.

    fp32 sums in both dtypes; in bf16 scale · x Aᵀ is rounded to bf16 before it is multiplied by B. A
    row's bits depend on its own segment alone, never on the count of threads. Raises ValueError for tensors that do not
    fit, BuildError without kernels.
    """
    if x_TI.dtype != operands.dtype or y_TO.dtype != operands.dtype:
        raise ValueError("x and y are of the bank's dtype.")
    tokens, in_features = x_TI.shape
    x_stride, x_inner = x_TI.stride()
    y_stride, y_inner = y_TO.stride()
    if in_features != operands.in_features or y_TO.shape != (tokens, operands.out_features):
        raise ValueError("x and y are not of this group's sizes.")
    if (x_inner != 1 and in_features > 1) or (y_inner != 1 and operands.out_features > 1):
        raise ValueError("A row of x and one of y lie in one piece.")
    if segments.tokens > tokens or segments.slots > operands.slots:
        raise ValueError("The segments name rows or slots that are not there.")
    _kernel()(
        operands.address,
        segments.address,
        segments.count,
        x_TI.data_ptr(),
        x_stride,
        y_TO.data_ptr(),
        y_stride,
        operands.is_bf16,
        torch.get_num_threads(),
    )


@functools.cache
def _backward_kernel() -> Any:
    pointer, long = ctypes.c_void_p, ctypes.c_int64
    function = library().trellis_lora_backward
    function.argtypes = (pointer, pointer, long, *(pointer, long) * 3, pointer, long, ctypes.c_int)
    function.restype = None
    return function


def add_gradients(
    grad_x_TI: Tensor | None,
    grad_V: Tensor,
    grad_y_TO: Tensor,
    x_TI: Tensor,
    operands: LoraOperands,
    segments: SegmentTable,
) -> None:
    """Add the gradients of `add_lora` to those of x, A and B in place; all are float32.

    What a segment adds depends on it alone, bit for bit, never on the count of threads; segments of one slot are added in
    their order. Raises ValueError for tensors that do not fit, BuildError without kernels.
    """
    _check_gradients(grad_x_TI, grad_V, grad_y_TO, x_TI, operands, segments)
    grad_x = torch.empty(0, operands.in_features) if grad_x_TI is None else grad_x_TI
    _backward_kernel()(
        operands.address,
        segments.address,
        segments.count,
        x_TI.data_ptr(),
        x_TI.stride(0),
        grad_y_TO.data_ptr(),
        grad_y_TO.stride(0),
        None if grad_x_TI is None else grad_x.data_ptr(),
        grad_x.stride(0),
        grad_V.data_ptr(),
        len(x_TI),
        torch.get_num_threads(),
    )


def _check_gradients(
    grad_x_TI: Tensor | None,
    grad_V: Tensor,
    grad_y_TO: Tensor,
    x_TI: Tensor,
    operands: LoraOperands,
    segments: SegmentTable,
) -> None:
    tokens, in_features = x_TI.shape
    tensors = [t for t in (x_TI, grad_y_TO, grad_x_TI, grad_V) if t is not None]
    if operands.is_bf16 or any(t.dtype != torch.float32 or t.device.type != "cpu" for t in tensors):
        raise ValueError("Gradients are computed in float32, in the CPU's memory.")
    if in_features != operands.in_features or grad_y_TO.shape != (tokens, operands.out_features):
        raise ValueError("x and y are not of this group's sizes.")
    if grad_x_TI is not None and grad_x_TI.shape != x_TI.shape:
        raise ValueError("x and its gradient are of one size.")
    if grad_V.shape != (operands.values,) or not grad_V.is_contiguous():
        raise ValueError("The gradients of A and B lie as their values do.")
    if any(t.stride(1) != 1 and t.shape[1] > 1 for t in (x_TI, grad_y_TO, grad_x_TI) if t is not None):
        raise ValueError("A row of x and one of y lie in one piece.")
    if segments.tokens > tokens or segments.slots > operands.slots:
        raise ValueError("The segments name rows or slots that are not there.")


@functools.cache
def _adapted_kernels() -> tuple[Any, Any]:
    pointer, long, integer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    forth, back = library().trellis_adapted, library().trellis_adapted_backward
    forth.argtypes = (pointer, pointer, long, pointer, long, *(pointer,) * 3, long, integer, integer)
    back.argtypes = (pointer, pointer, long, *(pointer, long) * 2, *(pointer,) * 3, long, integer)
    forth.restype = back.restype = None
    return forth, back


def adapted(x_TI: Tensor, linear: PackedLinear, operands: LoraOperands, segments: SegmentTable) -> Tensor:
    """The product and what `add_lora` adds to it, in float32: the same bits, but y is written once instead of twice.

    Raises ValueError for tensors that do not fit, BuildError without kernels.
    """
    tokens, in_features = x_TI.shape
    sizes = (operands.in_features, operands.out_features)
    if operands.is_bf16 or x_TI.dtype != torch.float32 or in_features != sizes[0] or linear.sizes != sizes:
        raise ValueError("x, the weight and the adapters are float32, and of one group's sizes.")
    if x_TI.stride(1) != 1 and in_features > 1:
        raise ValueError("A row of x lies in one piece.")
    if segments.tokens > tokens or segments.slots > operands.slots:
        raise ValueError("The segments name rows or slots that are not there.")
    y_TO = x_TI.new_empty(tokens, operands.out_features)
    _adapted_kernels()[0](
        operands.address,
        segments.address,
        segments.count,
        x_TI.data_ptr(),
        x_TI.stride(0),
        linear.address,
        linear.bias_address,
        y_TO.data_ptr(),
        tokens,
        0,
        torch.get_num_threads(),
    )
    return y_TO


def adapted_gradients(
    grad_V: Tensor,
    grad_y_TO: Tensor,
    x_TI: Tensor,
    linear: PackedLinear,
    operands: LoraOperands,
    segments: SegmentTable,
) -> Tensor:
    """The gradient of x through the product and the adapters; those of A and B are added to in place.

    `linear` multiplies by the transposed weight. The same bits as the product and `add_gradients`. Raises ValueError for
    tensors that do not fit, BuildError without kernels.
    """
    grad_x_TI = torch.empty_like(x_TI, memory_format=torch.contiguous_format)
    _check_gradients(grad_x_TI, grad_V, grad_y_TO, x_TI, operands, segments)
    if linear.sizes != (operands.out_features, operands.in_features):
        raise ValueError("The weight and the adapters are of one group's sizes.")
    _adapted_kernels()[1](
        operands.address,
        segments.address,
        segments.count,
        x_TI.data_ptr(),
        x_TI.stride(0),
        grad_y_TO.data_ptr(),
        grad_y_TO.stride(0),
        linear.address,
        grad_x_TI.data_ptr(),
        grad_V.data_ptr(),
        len(x_TI),
        torch.get_num_threads(),
    )
    return grad_x_TI
