"""Parts put together into one object, which is kept only if it has the announced sha256."""

import hashlib
from collections.abc import Sequence

from trellis.objects import ObjectStore

_COPY_BYTES = 1 << 20


class ChecksumError(ValueError):
    """The bytes do not have the announced sha256; `received` is the one that they have, in hex."""

    def __init__(self, received: str) -> None:
        super().__init__(received)
        self.received = received


def compose(store: ObjectStore, part_keys: Sequence[str], key: str, sha256: str) -> None:
    """Make the object `key` of the parts, in order; blocks. Raises ChecksumError, and then there is no such object."""
    digest = hashlib.sha256()
    with store.writing(key) as target:
        for part_key in part_keys:
            with store.open_read(part_key) as part:
                while piece := part.read(_COPY_BYTES):
                    digest.update(piece)
                    target.write(piece)
        if digest.hexdigest() != sha256:
            raise ChecksumError(digest.hexdigest())
