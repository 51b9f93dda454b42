"""Who fetches a base: one at a time, on however many machines, without trusting locks of a network file system.

The file is made by who wants to fetch (O_EXCL) and touched while it does. One that was not touched for long is moved
aside, and made anew. Two that both took it aside at the same moment can both fetch for a while: each has a folder of
its own, and the rename of the whole base decides.
"""

import contextlib
import os
import socket
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from trellis.base_cache.errors import PassingError


class Lease:
    """The right to fetch one base, kept by touching a file; a context that gives it back."""

    def __init__(self, path: Path, token: str, seconds: float) -> None:
        self._path = path
        self.token = token
        self.on_beat: Callable[[], None] | None = None
        """Called at each beat, in the beats' own thread."""
        self._seconds = seconds
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="base-cache-lease", daemon=True)

    @classmethod
    def take(cls, path: Path, seconds: float) -> Self | None:
        """Take it; None while another one has it. One untouched for `seconds` counts as nobody's."""
        token = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        if not _make(path, token):
            if not _is_stale(path, token, seconds):
                return None
            aside = path.with_name(f"{path.name}.old-{token}")
            with contextlib.suppress(FileNotFoundError):
                path.rename(aside)
            aside.unlink(missing_ok=True)
            if not _make(path, token):
                return None
        lease = cls(path, token, seconds)
        lease._beats.start()
        return lease

    def check(self) -> None:
        """Raise PassingError when it was taken over, which happens to a process that stood still for long."""
        if self._lost.is_set():
            raise PassingError("Another process has taken this fetch over, because this one stood still for too long.")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._beats.join()
        if _token(self._path) == self.token:
            self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(self._seconds / 5):
            try:
                if _token(self._path) != self.token:
                    self._lost.set()
                    return
                os.utime(self._path)
                if self.on_beat is not None:
                    self.on_beat()
            except OSError:
                continue  # a volume that does not answer now may do so at the next beat


def _make(path: Path, token: str) -> bool:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as stream:
        stream.write(token)
        stream.flush()
        os.fsync(stream.fileno())
    return True


def _token(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _is_stale(path: Path, token: str, seconds: float) -> bool:
    """By the clock of the file system: those of two machines may differ."""
    probe = path.with_name(f"{path.name}.now-{token}")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime > seconds
    except FileNotFoundError:
        return True
    finally:
        probe.unlink(missing_ok=True)
