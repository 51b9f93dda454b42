"""Headers of safetensors files, read and checked without any library that runs models."""

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeGuard

MAX_HEADER_BYTES: Final = 32 << 20
_MAX_DIMENSIONS: Final = 8
_LENGTH_BYTES: Final = 8
_PICKLE_STARTS: Final = (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)))
DTYPE_BYTES: Final[Mapping[str, int]] = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8, "C64": 8,
}  # fmt: skip
"""The size of one element of each dtype that is read."""


class TensorFileError(ValueError):
    """The file is not a sound safetensors file; `code` is `pickle` or `bad_header`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: its dtype as safetensors writes it, its shape, and where its bytes are in the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What a safetensors file holds; `raw` is the header as it is written."""

    tensors: Mapping[str, TensorEntry]
    raw: bytes
    file_size: int


def read_tensor_header(path: Path) -> TensorHeader:
    """The header of a safetensors file whose tensors fill it without gap or overlap. Raises TensorFileError."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        raw = _read_raw(stream, path.name, size)
    data_start = _LENGTH_BYTES + len(raw)
    entries = [_entry(name, value, path.name, data_start) for name, value in _parse(raw, path.name).items()]
    _check_layout(entries, path.name, data_start, size)
    return TensorHeader({entry.name: entry for entry in entries}, raw, size)


def _read_raw(stream: BinaryIO, name: str, size: int) -> bytes:
    start = stream.read(_LENGTH_BYTES)
    if start.startswith(_PICKLE_STARTS) and not _plausible_length(start, size):
        raise TensorFileError("pickle", f"{name} holds pickled data, which is never read; save it as safetensors.")
    if len(start) < _LENGTH_BYTES:
        raise _bad(name, f"it has {size} bytes, too few for a safetensors file")
    (length,) = struct.unpack("<Q", start)
    if length > min(size - _LENGTH_BYTES, MAX_HEADER_BYTES):
        raise _bad(name, f"its header is said to have {length} bytes, but the file has {size}")
    return stream.read(length)


def _plausible_length(start: bytes, size: int) -> bool:
    return len(start) == _LENGTH_BYTES and struct.unpack("<Q", start)[0] <= size - _LENGTH_BYTES


def _parse(raw: bytes, name: str) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _bad(name, f"its header is not JSON ({error})") from None
    if not isinstance(header, dict):
        raise _bad(name, "its header is not a JSON object")
    header.pop("__metadata__", None)
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _entry(tensor: str, value: Any, file: str, data_start: int) -> TensorEntry:
    if not isinstance(value, dict):
        raise _bad(file, f"tensor {tensor!r} is not described by an object")
    dtype, shape, offsets = value.get("dtype"), value.get("shape"), value.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise _bad(file, f"tensor {tensor!r} has the unknown dtype {dtype!r}")
    if not _counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise _bad(file, f"tensor {tensor!r} has no proper shape")
    if not _counts(offsets) or len(offsets) != 2:
        raise _bad(file, f"tensor {tensor!r} has no proper data_offsets")
    begin, end = offsets
    if end - begin != math.prod(shape) * DTYPE_BYTES[dtype]:
        raise _bad(file, f"tensor {tensor!r} has {end - begin} bytes, which does not fit its shape {shape} in {dtype}")
    return TensorEntry(tensor, dtype, tuple(shape), data_start + begin, data_start + end)


def _counts(value: Any) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 62 for item in value)


def _check_layout(entries: list[TensorEntry], file: str, data_start: int, size: int) -> None:
    at = data_start
    for entry in sorted(entries, key=lambda found: (found.start, found.end)):
        if entry.start != at:
            what = "overlaps the one before it" if entry.start < at else "leaves a gap before it"
            raise _bad(file, f"tensor {entry.name!r} {what}")
        at = entry.end
    if at != size:
        raise _bad(file, f"its tensors end at byte {at}, but it has {size} bytes; it was cut off or has bytes to spare")


def _bad(file: str, what: str) -> TensorFileError:
    return TensorFileError("bad_header", f"{file} is not a sound safetensors file: {what}.")
