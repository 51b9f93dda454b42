"""Files on their way: read at any place by any thread, hashed, and written whole or not at all."""

import contextlib
import hashlib
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

CHUNK_BYTES = 512 * 1024
"""gRPC copies a message a few times; the API takes up to 1 MiB."""


class Source:
    """The bytes of a file or a seekable stream, from where the stream stands to its end."""

    def __init__(self, stream: BinaryIO, filename: str) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._start = stream.tell()
        self.size = stream.seek(0, os.SEEK_END) - self._start
        self.filename = filename

    @classmethod
    @contextlib.contextmanager
    def open(cls, file: "str | os.PathLike[str] | BinaryIO", filename: str = "") -> Iterator["Source"]:
        """Open a path, or take a stream as it is. Raises OSError."""
        if isinstance(file, (str, os.PathLike)):
            path = Path(file)
            with path.open("rb") as stream:
                yield cls(stream, filename or path.name)
        else:
            yield cls(file, filename or Path(str(getattr(file, "name", "data.jsonl"))).name)

    def read(self, offset: int, count: int) -> bytes:
        """So many bytes from this place on, fewer at the end. Safe beside other threads."""
        with self._lock:
            self._stream.seek(self._start + offset)
            return self._stream.read(count)

    def chunks(self, offset: int = 0) -> Iterator[bytes]:
        """The bytes from this place on."""
        while chunk := self.read(offset, CHUNK_BYTES):
            yield chunk
            offset += len(chunk)

    def sha256(self) -> str:
        """The hash of all the bytes, in hex."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def stream(self) -> BinaryIO:
        """The stream itself, at its beginning; nobody else may read meanwhile."""
        self._stream.seek(self._start)
        return self._stream


class Sink:
    """Bytes that come: written beside the target, hashed, and moved into place when they are whole."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._scratch = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        self._digest = hashlib.sha256()
        self._stream = self._scratch.open("wb")
        self.received = 0

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self._stream.write(chunk)
        self._digest.update(chunk)
        self.received += len(chunk)

    def sha256(self) -> str:
        """The hash of what has come, in hex."""
        return self._digest.hexdigest()

    def finish(self) -> None:
        """Move the bytes into place."""
        self._stream.close()
        self._scratch.replace(self._target)

    def discard(self) -> None:
        """Remove what is not in place."""
        self._stream.close()
        self._scratch.unlink(missing_ok=True)
