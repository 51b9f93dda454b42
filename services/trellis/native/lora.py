"""LoRA of a mixed batch on the CPU: each segment of rows with its own adapter, in one call.

Tensors' shapes: T tokens, I in-features, P parts fused into one product, O out-features of all parts, R rank rows of the
bank, S adapter slots, N segments.
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
        ("a", ctypes.c_void_p),
        ("b", ctypes.c_void_p),
        ("scale", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("parts", ctypes.c_int64),
        ("in_features", ctypes.c_int64),
        ("out_features", ctypes.c_int64),
    )


class LoraOperands:
    """The bank's tensors of one group of linears, with their addresses at hand; made once, it keeps the tensors alive.

    The tensors are read at each call: what is written into them in place counts from the next call on. A part whose
    scale is 0 for a slot is skipped, whatever its rows hold.
    """

    __slots__ = ("_keep", "address", "dtype", "in_features", "is_bf16", "out_features", "rows", "slots")

    def __init__(self, a_RPI: Tensor, b_RO: Tensor, scale_SP: Tensor, out_features: Sequence[int]) -> None:
        """Raises ValueError if the tensors do not fit each other or are none that the kernel can read."""
        rows, parts, in_features = a_RPI.shape
        columns = sum(out_features)
        if b_RO.shape != (rows, columns) or len(out_features) != parts or scale_SP.shape[1:] != (parts,):
            raise ValueError("A, B, the scales and the out-features are not of one group.")
        if a_RPI.dtype not in DTYPES or b_RO.dtype != a_RPI.dtype or scale_SP.dtype != torch.float32:
            raise ValueError("A and B are both float32 or both bfloat16, the scales float32.")
        if not all(t.is_contiguous() and t.device.type == "cpu" for t in (a_RPI, b_RO, scale_SP)):
            raise ValueError("A, B and the scales are contiguous and in the CPU's memory.")
        offsets = torch.tensor([0, *accumulate(out_features)], dtype=torch.int32)
        group = _Group(
            a_RPI.data_ptr(), b_RO.data_ptr(), scale_SP.data_ptr(), offsets.data_ptr(), parts, in_features, columns
        )
        self._keep = (a_RPI, b_RO, scale_SP, offsets, group)
        self.address: Final = ctypes.addressof(group)
        self.dtype: Final = a_RPI.dtype
        self.is_bf16: Final = int(a_RPI.dtype == torch.bfloat16)
        self.rows: Final = rows
        self.slots: Final = scale_SP.shape[0]
        self.in_features: Final = in_features
        self.out_features: Final = columns


class SegmentTable:
    """Which rows have which adapter, for all groups of one step.

    `table_N5` is int32: first token row, token rows, first bank row, bank rows, slot; a slot below 0 is the base alone.
    """

    __slots__ = ("_keep", "address", "bank_rows", "count", "slots", "tokens")

    def __init__(self, table_N5: Tensor) -> None:
        """Raises ValueError for segments that overlap or are out of order: their rows would be written twice."""
        if table_N5.dtype != torch.int32 or table_N5.dim() != 2 or table_N5.shape[1] != 5:
            raise ValueError("A segment table is int32, five numbers a segment.")
        table_N5 = table_N5.contiguous()
        self.count: Final = len(table_N5)
        self.tokens, self.bank_rows, self.slots = 0, 0, 0
        for token, tokens, row, rows, slot in table_N5.tolist():
            if token < self.tokens or min(tokens, row, rows) < 0:
                raise ValueError("Segments follow one another, and none begins or counts below 0.")
            self.tokens = token + tokens
            if slot >= 0:
                self.bank_rows, self.slots = max(self.bank_rows, row + rows), max(self.slots, slot + 1)
        self._keep = table_N5
        self.address: Final = table_N5.data_ptr()


@functools.cache
def _kernel() -> Any:
    pointer, long, integer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    function = library().trellis_add_lora
    function.argtypes = (pointer, pointer, long, pointer, long, pointer, long, integer, integer)
    function.restype = None
    return function


def add_lora(y_TO: Tensor, x_TI: Tensor, operands: LoraOperands, segments: SegmentTable) -> None:
    """y += scale · (x Aᵀ) B in place, for each part's columns and each segment's rows.

    fp32 sums in both dtypes; in bf16, where the CPU has AMX, x Aᵀ of segments of 16 rows or more is rounded to bf16. A
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
    if segments.tokens > tokens or segments.bank_rows > operands.rows or segments.slots > operands.slots:
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
    function.argtypes = (pointer, pointer, long, *(pointer, long) * 3, pointer, pointer, long, ctypes.c_int)
    function.restype = None
    return function


def add_gradients(
    grad_x_TI: Tensor | None,
    grad_a_RPI: Tensor,
    grad_b_RO: Tensor,
    grad_y_TO: Tensor,
    x_TI: Tensor,
    operands: LoraOperands,
    segments: SegmentTable,
) -> None:
    """Add the gradients of `add_lora` to those of x, A and B in place; all are float32.

    What a segment adds depends on it alone, bit for bit, never on the count of threads; segments of one slot are added in
    their order. Raises ValueError for tensors that do not fit, BuildError without kernels.
    """
    _check_gradients(grad_x_TI, grad_a_RPI, grad_b_RO, grad_y_TO, x_TI, operands, segments)
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
        grad_a_RPI.data_ptr(),
        grad_b_RO.data_ptr(),
        len(x_TI),
        torch.get_num_threads(),
    )


def _check_gradients(
    grad_x_TI: Tensor | None,
    grad_a_RPI: Tensor,
    grad_b_RO: Tensor,
    grad_y_TO: Tensor,
    x_TI: Tensor,
    operands: LoraOperands,
    segments: SegmentTable,
) -> None:
    tokens, in_features = x_TI.shape
    tensors = [t for t in (x_TI, grad_y_TO, grad_x_TI, grad_a_RPI, grad_b_RO) if t is not None]
    if operands.is_bf16 or any(t.dtype != torch.float32 or t.device.type != "cpu" for t in tensors):
        raise ValueError("Gradients are computed in float32, in the CPU's memory.")
    if in_features != operands.in_features or grad_y_TO.shape != (tokens, operands.out_features):
        raise ValueError("x and y are not of this group's sizes.")
    if grad_x_TI is not None and grad_x_TI.shape != x_TI.shape:
        raise ValueError("x and its gradient are of one size.")
    rows, parts = operands.rows, grad_a_RPI.shape[1]
    if grad_a_RPI.shape != (rows, parts, in_features) or grad_b_RO.shape != (rows, operands.out_features):
        raise ValueError("The gradients are not of the bank's sizes.")
    if not (grad_a_RPI.is_contiguous() and grad_b_RO.is_contiguous()):
        raise ValueError("The gradients of A and B lie in one piece.")
    if any(t.stride(1) != 1 and t.shape[1] > 1 for t in (x_TI, grad_y_TO, grad_x_TI) if t is not None):
        raise ValueError("A row of x and one of y lie in one piece.")
    if segments.tokens > tokens or segments.bank_rows > operands.rows or segments.slots > operands.slots:
        raise ValueError("The segments name rows or slots that are not there.")


@functools.cache
def _adapted_kernels() -> tuple[Any, Any]:
    pointer, long, integer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    forth, back = library().trellis_adapted, library().trellis_adapted_backward
    forth.argtypes = (pointer, pointer, long, pointer, long, *(pointer,) * 3, long, integer, integer)
    back.argtypes = (pointer, pointer, long, *(pointer, long) * 2, *(pointer,) * 4, long, integer)
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
    if segments.tokens > tokens or segments.bank_rows > operands.rows or segments.slots > operands.slots:
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
    grad_a_RPI: Tensor,
    grad_b_RO: Tensor,
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
    _check_gradients(grad_x_TI, grad_a_RPI, grad_b_RO, grad_y_TO, x_TI, operands, segments)
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
        grad_a_RPI.data_ptr(),
        grad_b_RO.data_ptr(),
        len(x_TI),
        torch.get_num_threads(),
    )
    return grad_x_TI
