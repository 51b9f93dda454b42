"""Products with a frozen weight, for a few dozen rows or many, where the library that PyTorch has falls short.

Tensors' shapes: T rows, I in-features, O out-features.
"""

import ctypes
import functools
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from trellis.native.build import available, library
from trellis.native.pages import zeros

__all__ = ["DifferentiableLinear", "PackedLinear", "serves", "takes"]

_STRIP: Final = 16
_BITS: Final = {torch.float32: 1, torch.bfloat16: 2}
"""Of what the kernels say that they have."""


@functools.cache
def _kernel() -> tuple[Any, Any]:
    pointer, long, integer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    kernels = library()
    pack, multiply = kernels.trellis_pack_linear, kernels.trellis_linear
    pack.argtypes = (pointer, *(long,) * 4, pointer, integer)
    multiply.argtypes = (pointer, long, pointer, pointer, pointer, long, long, long, integer, integer)
    pack.restype = multiply.restype = None
    return pack, multiply


@functools.cache
def _taken() -> frozenset[torch.dtype]:
    """What the CPU has the instructions for."""
    has = library().trellis_has_linear() if available() else 0
    return frozenset(dtype for dtype, bit in _BITS.items() if has & bit)


@functools.cache
def _dtypes() -> frozenset[torch.dtype]:
    """What is quicker here than PyTorch's own libraries.

    In float32 that is so where MKL, which keeps its AVX-512 for Intel's CPUs, takes its slower way (105 GFLOP/s against 236
    on one core of an EPYC); in bfloat16 where there are no AMX tiles, which oneDNN uses and this does not.
    """
    found = set(_taken())
    if _is_intels():
        found.discard(torch.float32)
    if torch.cpu._is_amx_tile_supported():  # noqa: SLF001  there is no other way to ask
        found.discard(torch.bfloat16)
    return frozenset(found)


def _is_intels() -> bool:
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return True


def takes(weight_OI: Tensor) -> bool:
    """Whether the kernel can multiply by the weight here, be it quicker than others or not."""
    if weight_OI.device.type != "cpu" or weight_OI.dtype not in _BITS:
        return False
    size = weight_OI.shape[1]
    return size > 0 and size % _BITS[weight_OI.dtype] == 0 and weight_OI.dtype in _taken()


def serves(weight_OI: Tensor) -> bool:
    """Whether the kernel takes the weight and is the quickest that the CPU has for it."""
    return takes(weight_OI) and weight_OI.dtype in _dtypes()


class PackedLinear:
    """x Wᵀ + bias without gradients. Sums in float32, in one order whatever the other rows are and how many."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        """The weight may have any strides; it is copied."""
        self._out, self._in = weight_OI.shape
        self._dtype = weight_OI.dtype
        self._is_bf16 = int(self._dtype == torch.bfloat16)
        numbers = -(-self._out // _STRIP) * _STRIP * self._in
        self._weight = zeros((numbers,), self._dtype)
        strides = weight_OI.stride()
        _kernel()[0](weight_OI.data_ptr(), *strides, self._out, self._in, self._weight.data_ptr(), self._is_bf16)
        self._bias = None if bias_O is None else bias_O.float().contiguous()
        self.address: Final = self._weight.data_ptr()
        """Of the weight as it lies, for kernels that multiply by it on their way."""
        self.bias_address: Final = None if self._bias is None else self._bias.data_ptr()
        self._run = _kernel()[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the weight, the rows and the results."""
        return self._dtype

    @property
    def sizes(self) -> tuple[int, int]:
        """In-features and out-features."""
        return self._in, self._out

    def __call__(self, x: Tensor) -> Tensor:
        """(…, in-features) to (…, out-features); raises ValueError for another dtype or size."""
        size = self._in
        if x.dtype != self._dtype or x.shape[-1] != size:
            raise ValueError(f"The rows must be {self._dtype} and have {size} numbers.")
        x_TI = x if x.dim() == 2 else x.reshape(-1, size)
        if x_TI.stride(1) != 1:
            x_TI = x_TI.contiguous()
        y = x.new_empty((*x.shape[:-1], self._out))
        self._run(
            x_TI.data_ptr(),
            x_TI.stride(0),
            self.address,
            self.bias_address,
            y.data_ptr(),
            x_TI.shape[0],
            size,
            self._out,
            self._is_bf16,
            torch.get_num_threads(),
        )
        return y


class DifferentiableLinear:
    """x Wᵀ + bias with gradients for x; of the frozen weight there are two copies, one for each direction."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        self.forth = PackedLinear(weight_OI, bias_O)
        """The product alone."""
        self.back = PackedLinear(weight_OI.T, None)
        """From the result's gradient to that of x."""

    def __call__(self, x: Tensor) -> Tensor:
        """(…, in-features) to (…, out-features)."""
        y: Tensor = _Product.apply(x, self.forth, self.back)  # type: ignore[no-untyped-call]
        return y


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, forth: PackedLinear, back: PackedLinear) -> Tensor:
        ctx.back = back
        return forth(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(grad_y), None, None
