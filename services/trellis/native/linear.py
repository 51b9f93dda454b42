"""Products with a frozen weight in bfloat16, for the few dozen rows of a decoding step.

Tensors' shapes: T rows, I in-features, O out-features.
"""

import ctypes
import functools
from typing import Any, Final

import torch
from torch import Tensor

from trellis.native.build import available, library

__all__ = ["PackedLinear", "serves"]

_STRIP: Final = 16
_ALIGNMENT: Final = 64  # bytes


@functools.cache
def _kernel() -> tuple[Any, Any]:
    pointer, long = ctypes.c_void_p, ctypes.c_int64
    kernels = library()
    pack, multiply = kernels.trellis_pack_linear, kernels.trellis_linear
    pack.argtypes = (pointer, long, long, pointer)
    multiply.argtypes = (pointer, long, pointer, pointer, pointer, long, long, long, ctypes.c_int)
    pack.restype = multiply.restype = None
    return pack, multiply


@functools.cache
def _can() -> bool:
    # Where there are AMX tiles, oneDNN uses them, which this does not.
    return available() and bool(library().trellis_has_linear()) and not torch.cpu._is_amx_tile_supported()  # noqa: SLF001


def serves(weight_OI: Tensor) -> bool:
    """Whether the CPU has what it takes, and the weight a form that the kernel reads."""
    if weight_OI.dtype != torch.bfloat16 or weight_OI.device.type != "cpu":
        return False
    size = weight_OI.shape[1]
    return size > 0 and size % 2 == 0 and _can()


class PackedLinear:
    """x Wᵀ + bias for bfloat16 rows; inference only. Sums in float32, in one order whatever the other rows are."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        self._out, self._in = weight_OI.shape
        strips = -(-self._out // _STRIP)
        room = torch.empty(strips * _STRIP * self._in + _ALIGNMENT, dtype=torch.bfloat16)
        skipped = -room.data_ptr() % _ALIGNMENT // room.itemsize
        self._weight = room[skipped : skipped + strips * _STRIP * self._in]
        weight_OI = weight_OI.contiguous()
        _kernel()[0](weight_OI.data_ptr(), self._out, self._in, self._weight.data_ptr())
        self._bias = None if bias_O is None else bias_O.float().contiguous()
        self._address = self._weight.data_ptr()
        self._bias_address = None if self._bias is None else self._bias.data_ptr()
        self._run = _kernel()[1]

    def __call__(self, x: Tensor) -> Tensor:
        """(…, in-features) to (…, out-features); raises ValueError for another dtype or size."""
        size = self._in
        if x.dtype != torch.bfloat16 or x.shape[-1] != size:
            raise ValueError(f"The rows must be bfloat16 and have {size} numbers.")
        x_TI = x if x.dim() == 2 else x.reshape(-1, size)
        if x_TI.stride(1) != 1:
            x_TI = x_TI.contiguous()
        y = x.new_empty((*x.shape[:-1], self._out))
        self._run(
            x_TI.data_ptr(),
            x_TI.stride(0),
            self._address,
            self._bias_address,
            y.data_ptr(),
            x_TI.shape[0],
            size,
            self._out,
            torch.get_num_threads(),
        )
        return y
