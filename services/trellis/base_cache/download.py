"""One file of a base: fetched in pieces, taken up where it was cut, and held against its hash."""

import errno
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from trellis.base_cache.errors import PassingError
from trellis.base_cache.lease import Lease
from trellis.base_cache.manifest import CachedFile
from trellis.base_cache.part import Part
from trellis.base_cache.progress import Meter
from trellis.base_cache.sources.source import Hashes, Listing, RemoteFile, Source

_LONGEST_PAUSE: Final = 30.0
_WRONG_LIMIT: Final = 3


@dataclass(frozen=True, slots=True)
class Downloads:
    """What the downloads of one base share."""

    source: Source
    listing: Listing
    part: Part
    lease: Lease
    meter: Meter
    tries: int
    """So often a file is asked for again without a byte more."""
    sleep: Callable[[float], None]
    stop: threading.Event = field(default_factory=threading.Event)
    """Set when another file can't be fetched."""

    def get(self, file: RemoteFile) -> CachedFile:
        """Fetch the file, or what is missing of it. Raises BaseCacheError."""
        hashes, size = self.part.sound(file)
        download = _Download(self, file, hashes, size)
        self.meter.found(size)
        whole = download.run()
        self.part.note(whole)
        return whole


class _Download:
    def __init__(self, shared: Downloads, file: RemoteFile, hashes: Hashes, size: int) -> None:
        self._shared = shared
        self._file = file
        self._hashes = hashes
        self._size = size
        self._path = shared.part.path / file.name

    def run(self) -> CachedFile:
        in_vain = wrong = 0
        while True:
            before = self._size
            try:
                self._stream()
                if self._hashes.are_right:
                    return CachedFile(self._file.name, self._file.size, self._hashes.sha256)
                wrong += 1
                self._forget()
                if wrong == _WRONG_LIMIT:
                    why = f"came {wrong} times with other bytes than its hash says"
                    raise _WrongBytesError(f"{self._file.name} of {self._shared.source.name!r} {why}. Try again later.")
            except (_WrongBytesError, _StoppedError):
                raise
            except PassingError as error:
                self._check()
                in_vain = 0 if self._size > before else in_vain + 1
                if in_vain >= self._shared.tries:
                    raise
                pause = min(_LONGEST_PAUSE, 2.0**in_vain)
                self._shared.meter.say("retrying", f"{self._file.name}: {error} Trying again in {pause:.0f} s.")
                self._shared.sleep(pause)

    def _stream(self) -> None:
        shared, file = self._shared, self._file
        with self._path.open("r+b" if self._size else "wb") as stream:
            stream.seek(self._size)
            if self._size < file.size:
                with shared.source.read(file, shared.listing, self._size) as pieces:
                    for piece in pieces:
                        self._check()
                        self._keep(piece[: file.size - self._size], stream.write)
                        if self._size == file.size:
                            break
            stream.flush()
            os.fsync(stream.fileno())
        if self._size < file.size:
            raise PassingError(f"It ended after {self._size} of {file.size} bytes.")

    def _check(self) -> None:
        self._shared.lease.check()
        if self._shared.stop.is_set():
            raise _StoppedError("Another file of the base can't be fetched.")

    def _keep(self, piece: bytes, write: Callable[[bytes], int]) -> None:
        try:
            write(piece)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise PassingError(f"The volume of {str(self._path.parent)!r} is full. Make room on it.") from None
            raise
        self._hashes.update(piece)
        self._size += len(piece)
        self._shared.meter.add(len(piece))

    def _forget(self) -> None:
        self._path.unlink(missing_ok=True)
        self._shared.meter.add(-self._size)
        self._hashes, self._size = Hashes(self._file), 0


class _WrongBytesError(PassingError):
    """No use in asking on."""


class _StoppedError(PassingError):
    """Nobody wants the file any more."""
