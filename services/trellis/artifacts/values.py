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
    """A float as an unsigned number: the bits of infinity, and all bits but the sign's."""

    kind: Any
    infinity: int
    magnitude: int
    floats: Any
    """The numbers that these bits are; for BF16, which numpy does not have, with 16 more."""

    def number(self, bits: int) -> float:
        """What the bits without a sign say."""
        wide = bits << 8 * (np.dtype(self.floats).itemsize - np.dtype(self.kind).itemsize)
        return float(np.array(wide, dtype=f"<u{np.dtype(self.floats).itemsize}").view(self.floats))


DTYPES: Final[Mapping[str, _Layout]] = {
    "F32": _Layout(np.dtype("<u4"), 0x7F80_0000, 0x7FFF_FFFF, np.dtype("<f4")),
    "F16": _Layout(np.dtype("<u2"), 0x7C00, 0x7FFF, np.dtype("<f2")),
    "BF16": _Layout(np.dtype("<u2"), 0x7F80, 0x7FFF, np.dtype("<f4")),
}
"""The dtypes that an adapter's weights may have."""
LARGEST_BFLOAT16: Final = (2 - 2**-7) * 2.0**127
"""Numbers above it are infinite where a base is served in bfloat16."""


def largest(stream: BinaryIO, tensor: TensorEntry) -> float:
    """The largest magnitude in the tensor. Raises ArtifactError (`not_finite`) for NaN and infinity."""
    layout = DTYPES[tensor.dtype]
    stream.seek(tensor.start)
    left, bits = tensor.end - tensor.start, 0
    while left:
        data = stream.read(min(left, _PIECE_BYTES))
        if not data:
            raise ArtifactError("bad_header", f"The file ends inside of {tensor.name!r}.")
        left -= len(data)
        # Without the sign, a larger number has larger bits, and NaN and infinity the largest.
        bits = max(bits, int(np.max(np.frombuffer(data, dtype=layout.kind) & layout.magnitude)))
    if bits >= layout.infinity:
        raise ArtifactError("not_finite", f"{tensor.name!r} holds NaN or infinity.")
    return layout.number(bits)
