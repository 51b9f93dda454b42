"""A folder under a key of the object store, while it is filled: each file is hashed as it goes there."""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from trellis.artifacts import FileFacts
from trellis.exports import TASK_FILE
from trellis.objects import ObjectStore
from trellis_jobs.export.stop import ExportUnwantedError

_LOOK_SECONDS: Final = 5.0
_COPY_BYTES: Final = 1 << 20
Write = Callable[[bytes], object]


class ExportFolder:
    """The files of an export; looks now and then whether its task is still there, without which nobody wants them."""

    def __init__(self, store: ObjectStore, key: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._key = key
        self._clock = clock
        self._next_look = clock()
        self.files: dict[str, FileFacts] = {}

    @contextmanager
    def writing(self, path: str) -> Iterator[Write]:
        """A function that takes the file's bytes; the file is there when the block ends well."""
        digest, size = hashlib.sha256(), 0
        with self._store.writing(f"{self._key}/{path}") as stream:

            def write(data: bytes) -> None:
                nonlocal size
                self._look()
                stream.write(data)
                digest.update(data)
                size += len(data)

            yield write
        self.files[path] = FileFacts(digest.hexdigest(), size)

    def put(self, path: str, source: Path) -> None:
        """Copy a file."""
        with source.open("rb") as stream, self.writing(path) as write:
            while piece := stream.read(_COPY_BYTES):
                write(piece)

    def check_wanted(self) -> None:
        """Raise ExportUnwantedError if the export was deleted."""
        if not self._store.exists(f"{self._key}/{TASK_FILE}"):
            raise ExportUnwantedError

    def clear(self) -> None:
        """Remove all that is there."""
        self._store.delete_prefix(self._key)

    def _look(self) -> None:
        if self._clock() >= self._next_look:
            self.check_wanted()
            self._next_look = self._clock() + _LOOK_SECONDS
