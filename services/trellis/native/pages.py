"""Memory that stays: weights, adapters and the KV cache, in huge pages where the system has them.

A decoding step reads tens of megabytes that lie apart. In pages of 4 KiB that is more than a CPU remembers the places of
(its TLB): it looks up each page anew, and drops what it was told to fetch ahead.
"""

import math
import mmap
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import torch
from torch import Tensor

__all__ = ["zeros"]

_LEAST: Final = 128 << 10  # bytes; what is smaller is left to PyTorch
_CHUNK: Final = 64 << 20  # bytes; of addresses alone: a page takes memory when it is written first
_ALIGNMENT: Final = 64  # bytes
_lock = threading.Lock()


class _Chunk:
    """Pages that are handed out from the first to the last; they are given back when no tensor in them is left."""

    def __init__(self, size: int) -> None:
        try:
            self._pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"There is no room for {size >> 20} MiB.") from error
        advice = getattr(mmap, "MADV_HUGEPAGE", None)
        if advice is not None:
            with suppress(OSError):  # a kernel that was built without them
                self._pages.madvise(advice)
        self._used = 0

    def take(self, count: int, dtype: torch.dtype) -> Tensor | None:
        """So many numbers; None where that is more than is left."""
        start = -(-self._used // _ALIGNMENT) * _ALIGNMENT
        end = start + count * dtype.itemsize
        if end > len(self._pages):
            return None
        self._used = end
        return torch.frombuffer(self._pages, dtype=dtype, count=count, offset=start)


_chunk: _Chunk | None = None


def zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """As `torch.zeros`, and in memory already: no step waits for a page. On a CPU it begins at a multiple of 64 bytes.

    Raises MemoryError for more than there is.
    """
    count = math.prod(shape)
    if torch.device(device).type != "cpu" or count * dtype.itemsize < _LEAST:
        return torch.zeros(*shape, dtype=dtype, device=device)
    return _take(count, dtype).zero_().view(*shape)


def _take(count: int, dtype: torch.dtype) -> Tensor:
    global _chunk  # noqa: PLW0603  the one in use; the others belong to their tensors
    size = count * dtype.itemsize
    if size >= _CHUNK // 2:
        alone = _Chunk(size).take(count, dtype)
        assert alone is not None
        return alone
    with _lock:
        found = None if _chunk is None else _chunk.take(count, dtype)
        if found is None:
            _chunk = _Chunk(_CHUNK)
            found = _chunk.take(count, dtype)
            assert found is not None
        return found
