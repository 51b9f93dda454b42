"""Whole objects by key."""

import contextlib
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

from trellis.objects.failures import ObjectNotFoundError, ObjectStoreUnavailableError, translated
from trellis.objects.reading import SteadyReader, buffered
from trellis.objects.unfinished import discard_parts, discard_scratch, scratch_name
from trellis.objects.writing import written

_KEY = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]*(?:/[A-Za-z0-9_=-][A-Za-z0-9._=-]*)*")
_COPY_BYTES = 1 << 20
_DELETE_ROUNDS = 3
_S3 = ("s3://", "s3a://")
# One layer repeats what failed, with growing pauses: left alone, three of them would multiply to an hour. At the worst, with a
# store that takes calls and never answers, a call fails after five times 15 s and the pauses between them.
_S3_CLIENT = {"connect_timeout": 5, "read_timeout": 15, "retries": {"mode": "standard", "total_max_attempts": 5}}


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One stored object; its size is in bytes."""

    key: str
    size: int


class ObjectStore:
    """Whole objects by key. A key is there with all its bytes or not at all, whatever dies when.

    All methods block; an event loop calls them in a thread. Unknown keys raise ObjectNotFoundError, keys that could
    leave the store ValueError, and a store that fails or refuses us, after it was asked again, ObjectStoreUnavailableError.
    """

    def __init__(self, url: str, filesystem: fsspec.AbstractFileSystem, root: str) -> None:
        self.url = url
        self._fs = filesystem
        self._root = root.rstrip("/")
        self._local = isinstance(filesystem, LocalFileSystem)

    @classmethod
    def open(cls, url: str, **options: Any) -> Self:
        """Open the store at `url`: a folder, `file://…`, `s3://bucket/prefix`; `options` go to fsspec."""
        if url.startswith(_S3):
            options["config_kwargs"] = {**_S3_CLIENT, **options.get("config_kwargs", {})}
        # Without the cache: others write too, and what was listed before they did would hide their objects.
        filesystem, root = fsspec.url_to_fs(url, use_listings_cache=False, **options)
        if url.startswith(_S3):
            filesystem.retries = 1  # in turns, for the client below it asks again by itself
        return cls(url, filesystem, root)

    def _path(self, key: str) -> str:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} can't be a key of the object store.")
        return f"{self._root}/{key}"

    def _asking(self, key: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._local else translated(self.url, key)

    @contextlib.contextmanager
    def writing(self, key: str) -> Iterator[BinaryIO]:
        """A stream whose bytes become the object when the block ends well, and vanish when it raises."""
        path = self._path(key)
        if not self._local:
            with self._asking(key), written(self._fs, path) as stream:
                yield stream
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(scratch_name(target.name, uuid.uuid4().hex))
        try:
            with scratch.open("wb") as stream:
                yield stream
                stream.flush()
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)

    def put_bytes(self, key: str, data: bytes) -> None:
        """Store `data` under `key`, replacing what was there."""
        with self.writing(key) as stream:
            stream.write(data)

    def put_file(self, key: str, source: Path) -> None:
        """Store a file's bytes under `key`, replacing what was there."""
        with source.open("rb") as src, self.writing(key) as stream:
            shutil.copyfileobj(src, stream, _COPY_BYTES)

    def open_read(self, key: str) -> BinaryIO:
        """A seekable stream of the object."""
        try:
            with self._asking(key):
                stream = self._fs.open(self._path(key), "rb")
        except FileNotFoundError:
            raise ObjectNotFoundError(key) from None
        return cast(BinaryIO, stream if self._local else buffered(SteadyReader(stream, lambda: self._asking(key))))

    def read_bytes(self, key: str) -> bytes:
        """The whole object."""
        with self.open_read(key) as stream:
            return stream.read()

    def get_file(self, key: str, target: Path) -> None:
        """Copy the object to a file, whose folder is made if missing."""
        target.parent.mkdir(parents=True, exist_ok=True)
        with self.open_read(key) as src, target.open("wb") as stream:
            shutil.copyfileobj(src, stream, _COPY_BYTES)

    def exists(self, key: str) -> bool:
        """Whether the object is there."""
        try:
            with self._asking(key):  # not fsspec's isfile(), to which a store that is away has no files
                return bool(self._fs.info(self._path(key))["type"] == "file")
        except FileNotFoundError:
            return False

    def size(self, key: str) -> int:
        """The object's size in bytes."""
        try:
            with self._asking(key):
                return int(self._fs.size(self._path(key)))
        except FileNotFoundError:
            raise ObjectNotFoundError(key) from None

    def list(self, prefix: str) -> list[ObjectInfo]:
        """All objects below the folder-like `prefix`, by key."""
        try:
            with self._asking(prefix):
                found = self._fs.find(self._path(prefix), detail=True)
        except FileNotFoundError:
            return []
        keys = ((path[len(self._root) + 1 :], info) for path, info in found.items())
        listed = [ObjectInfo(key, int(info["size"])) for key, info in keys if _KEY.fullmatch(key)]
        return sorted(listed, key=lambda o: o.key)

    def delete(self, key: str) -> None:
        """Delete the object, if it is there."""
        with contextlib.suppress(FileNotFoundError), self._asking(key):
            self._fs.rm_file(self._path(key))

    def delete_prefix(self, prefix: str) -> None:
        """Delete all objects below the folder-like `prefix`."""
        # Until there are none: of many that are deleted together, S3 says in passing which it could not delete.
        for _ in range(_DELETE_ROUNDS):
            try:
                with self._asking(prefix):
                    self._fs.rm(self._path(prefix), recursive=True)
            except FileNotFoundError:
                return
        raise ObjectStoreUnavailableError("The object store does not delete all that it was asked to. Try again.")

    def discard_unfinished(self, prefix: str, begun_before: datetime) -> int:
        """Discard what writers that died have left below the folder-like `prefix`; of how many objects. Those that write
        must be done sooner than since `begun_before`. Of stores that are neither a folder nor S3 nothing is known.
        """
        path = self._path(prefix)
        if self._local:
            return discard_scratch(Path(path), begun_before)
        if not self.url.startswith(_S3):
            return 0
        with self._asking(prefix):
            return discard_parts(self._fs, path, begun_before)
