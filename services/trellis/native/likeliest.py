"""The highest number of each row: PyTorch's own is not vectorised on a CPU, least of all in bfloat16."""

import ctypes
import functools
from typing import Any, Final

import torch
from torch import Tensor

from trellis.native.build import available, library

__all__ = ["likeliest", "takes"]

_DTYPES: Final = (torch.float32, torch.bfloat16)


@functools.cache
def _kernel() -> Any:
    pointer, long, integer = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
    kernel = library().trellis_likeliest
    kernel.argtypes = (pointer, *(long,) * 3, pointer, pointer, integer, integer)
    kernel.restype = None
    return kernel


def takes(rows_NV: Tensor) -> bool:
    """Whether the kernel can read the rows."""
    is_plain = rows_NV.device.type == "cpu" and rows_NV.dtype in _DTYPES and rows_NV.dim() == 2
    return is_plain and rows_NV.shape[1] > 0 and rows_NV.stride(1) == 1 and available()


def likeliest(rows_NV: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) the highest number of each row in float32, NaN if there is one, and (N,) its place, the first of equals."""
    rows, size = rows_NV.shape
    values_N, places_N = torch.empty(rows), torch.empty(rows, dtype=torch.int64)
    _kernel()(
        rows_NV.data_ptr(),
        rows_NV.stride(0),
        rows,
        size,
        values_N.data_ptr(),
        places_N.data_ptr(),
        int(rows_NV.dtype == torch.bfloat16),
        torch.get_num_threads(),
    )
    return values_N, places_N
