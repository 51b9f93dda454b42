"""Reading an object whose bytes may stop coming: it goes on where it stopped, and a short object is an error."""

import contextlib
import io
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from trellis.objects.failures import ObjectStoreUnavailableError

_TRIES = 3
_PAUSE_SECONDS = 0.3
_BUFFER_BYTES = 1 << 20


class SteadyReader(io.RawIOBase):
    """A seekable stream over one of fsspec's, which knows the object's size when it is opened.

    `failing` is a context in which the store's errors become ObjectStoreUnavailableError.
    """

    def __init__(self, stream: Any, failing: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__()
        self._stream = stream
        self._failing = failing
        self._size = int(stream.size)
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; nothing is asked of the store."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError("A stream has nothing before its beginning.")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, or as much of it as there is; raises ObjectStoreUnavailableError."""
        wanted = min(len(buffer), max(self._size - self._position, 0))
        if wanted:
            buffer[:wanted] = self._read(wanted)
            self._position += wanted
        return wanted

    def close(self) -> None:
        """Let go of what was read ahead."""
        if not self.closed:
            with contextlib.suppress(ValueError):
                self._stream.close()
        super().close()

    def _read(self, size: int) -> bytes:
        for attempt in range(_TRIES):
            try:
                with self._failing():
                    self._stream.seek(self._position)
                    data = bytes(self._stream.read(size))
                if len(data) == size:
                    return data
            except ObjectStoreUnavailableError:
                if attempt == _TRIES - 1:
                    raise
            time.sleep(_PAUSE_SECONDS * (attempt + 1))
        raise ObjectStoreUnavailableError("The object store gave fewer bytes than the object has. Try again.")


def buffered(reader: SteadyReader) -> io.BufferedReader:
    """The reader, for small reads too."""
    return io.BufferedReader(reader, _BUFFER_BYTES)
