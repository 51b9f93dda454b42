"""Writing an object to a store that is no folder: it appears when all its bytes are there, in one call or in parts."""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

import fsspec


@contextlib.contextmanager
def written(filesystem: fsspec.AbstractFileSystem, path: str) -> Iterator[BinaryIO]:
    """A stream whose bytes become the object when the block ends well; when it does not, its parts are taken back."""
    # Not fsspec's transactions: one is shared by all threads of a file system.
    stream = filesystem.open(path, "wb", autocommit=False)
    try:
        yield cast(BinaryIO, stream)
        if stream.offset is None:  # no part has been sent: one call does it
            filesystem.pipe_file(path, stream.buffer.getvalue())
            _abandon(stream)
            return
        stream.close()
        _commit(filesystem, path, stream)
    except BaseException:
        with contextlib.suppress(Exception):  # a store that is away keeps the parts until its own rule removes them
            stream.discard()
        _abandon(stream)
        raise


def _abandon(stream: Any) -> None:
    stream.closed = True  # or its finalizer would begin the upload anew


def _commit(filesystem: fsspec.AbstractFileSystem, path: str, stream: Any) -> None:
    """Put the parts together; when the store has done it and its answer was lost, it knows no such upload any more."""
    etag = _etag(stream.parts or [])
    try:
        stream.commit()
    except FileNotFoundError:
        if not etag or filesystem.info(path).get("ETag", "").strip('"') != etag:
            raise


def _etag(parts: list[dict[str, Any]]) -> str:
    """Of the whole, as S3 makes it of those of its parts."""
    digests = [str(part["ETag"]).strip('"') for part in parts]
    try:
        together = hashlib.md5(b"".join(map(bytes.fromhex, digests)), usedforsecurity=False)
    except ValueError:  # not each store's are digests
        return ""
    return f"{together.hexdigest()}-{len(digests)}"
