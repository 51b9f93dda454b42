"""A look at every number of a tensor, a piece at a time."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import numpy as np

from trellis.artifacts.errors import ArtifactError
from trellis.tensor_files import TensorEntry

_PIECE_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class _Layout:
    """A float as an unsigned number: the exponent's bits, all set in NaN and Inf, and all bits but the sign's."""

    kind: Any
    exponent: int
    magnitude: int


DTYPES: Final[Mapping[str, _Layout]] = {
    "F32": _Layout(np.dtype("<u4"), 0x7F80_0000, 0x7FFF_FFFF),
    "F16": _Layout(np.dtype("<u2"), 0x7C00, 0x7FFF),
    "BF16": _Layout(np.dtype("<u2"), 0x7F80, 0x7FFF),
}
"""The dtypes that an adapter's weights may have."""


def has_effect(stream: BinaryIO, tensor: TensorEntry) -> bool:
    """Whether any number of the tensor is not zero. Raises ArtifactError (`not_finite`) for NaN and infinity."""
    layout = DTYPES[tensor.dtype]
    stream.seek(tensor.start)
    left, found = tensor.end - tensor.start, False
    while left:
        data = stream.read(min(left, _PIECE_BYTES))
        if not data:
            raise ArtifactError("bad_header", f"The file ends inside of {tensor.name!r}.")
        left -= len(data)
        numbers = np.frombuffer(data, dtype=layout.kind)
        if bool(np.any((numbers & layout.exponent) == layout.exponent)):
            raise ArtifactError("not_finite", f"{tensor.name!r} holds NaN or infinity.")
        found = found or bool(np.any(numbers & layout.magnitude))
    return found
