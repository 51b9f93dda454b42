"""The object store: a local folder or S3, by URL, through fsspec. Keys are made by us, never taken from a request."""

import contextlib
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

_KEY = re.compile(r"[A-Za-z0-9_=-][A-Za-z0-9._=-]*(?:/[A-Za-z0-9_=-][A-Za-z0-9._=-]*)*")
_COPY_BYTES = 1 << 20


class ObjectNotFoundError(FileNotFoundError):
    """No object has this key."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One stored object; its size is in bytes."""

    key: str
    size: int


class ObjectStore:
    """Whole objects by key. A key is there with all its bytes or not at all, whatever dies when.

    All methods block; an event loop calls them in a thread. Unknown keys raise ObjectNotFoundError, keys that could
    leave the store ValueError.
    """

    def __init__(self, url: str, filesystem: fsspec.AbstractFileSystem, root: str) -> None:
        self.url = url
        self._fs = filesystem
        self._root = root.rstrip("/")
        self._local = isinstance(filesystem, LocalFileSystem)

    @classmethod
    def open(cls, url: str, **options: Any) -> Self:
        """Open the store at `url`: a folder, `file://…`, `s3://bucket/prefix`; `options` go to fsspec."""
        # Without the cache: others write too, and what was listed before they did would hide their objects.
        filesystem, root = fsspec.url_to_fs(url, use_listings_cache=False, **options)
        return cls(url, filesystem, root)

    def _path(self, key: str) -> str:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} can't be a key of the object store.")
        return f"{self._root}/{key}"

    @contextlib.contextmanager
    def writing(self, key: str) -> Iterator[BinaryIO]:
        """A stream whose bytes become the object when the block ends well, and vanish when it raises."""
        path = self._path(key)
        if not self._local:
            yield from self._writing_remote(path)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            with scratch.open("wb") as stream:
                yield stream
                stream.flush()
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)

    def _writing_remote(self, path: str) -> Iterator[BinaryIO]:
        # Not fsspec's transactions: one is shared by all threads of a file system.
        stream = self._fs.open(path, "wb", autocommit=False)
        try:
            yield cast(BinaryIO, stream)
            stream.close()
        except BaseException:
            stream.discard()
            stream.closed = True  # or its finalizer would begin the upload anew
            raise
        stream.commit()

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
            return cast(BinaryIO, self._fs.open(self._path(key), "rb"))
        except FileNotFoundError:
            raise ObjectNotFoundError(key) from None

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
        return bool(self._fs.isfile(self._path(key)))

    def size(self, key: str) -> int:
        """The object's size in bytes."""
        try:
            return int(self._fs.size(self._path(key)))
        except FileNotFoundError:
            raise ObjectNotFoundError(key) from None

    def list(self, prefix: str) -> list[ObjectInfo]:
        """All objects below the folder-like `prefix`, by key."""
        try:
            found = self._fs.find(self._path(prefix), detail=True)
        except FileNotFoundError:
            return []
        keys = ((path[len(self._root) + 1 :], info) for path, info in found.items())
        listed = [ObjectInfo(key, int(info["size"])) for key, info in keys if _KEY.fullmatch(key)]
        return sorted(listed, key=lambda o: o.key)

    def delete(self, key: str) -> None:
        """Delete the object, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(key))

    def delete_prefix(self, prefix: str) -> None:
        """Delete all objects below the folder-like `prefix`."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._path(prefix), recursive=True)
