"""What every kind of source can do."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any, Final, Protocol

WANTED: Final = ("*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt", "*.safetensors")
"""A model's files; pickles, which can run code, are never among them."""


def is_wanted(name: str) -> bool:
    """Whether a file at the top of a model's folder is one of those that are used."""
    return "/" not in name and not name.startswith(".") and any(fnmatch(name, pattern) for pattern in WANTED)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as its source tells of it."""

    name: str
    size: int
    hashes: Mapping[str, str] = field(default_factory=dict)
    """What is known beforehand: `sha256`, `git` (of a blob) or `md5`; empty when nothing is."""
    tag: str = ""
    """Another one means other bytes."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A source's wanted files in one revision."""

    revision: str
    """The commit; empty where the revision is the digest of what will have been fetched."""
    files: tuple[RemoteFile, ...]

    @property
    def key(self) -> str:
        """Names a fetch of exactly these bytes."""
        if self.revision:
            return self.revision[:16]
        said = repr(sorted((file.name, file.size, sorted(file.hashes.items()), file.tag) for file in self.files))
        return hashlib.sha256(said.encode()).hexdigest()[:16]


class Source(Protocol):
    """Lists files and reads them. Raises PassingError for what may pass, and BaseCacheError for what won't."""

    name: str

    def list(self, revision: str) -> Listing:
        """The wanted files, in the revision or what is the newest."""
        ...

    def read(self, file: RemoteFile, listing: Listing, offset: int) -> AbstractContextManager[Iterator[bytes]]:
        """The file's bytes from `offset` on, in pieces."""
        ...

    def close(self) -> None:
        """Let its connections go."""
        ...


class Hashes:
    """All the hashes of one file that are needed, in one pass."""

    def __init__(self, file: RemoteFile) -> None:
        self._known = file.hashes
        self._all: dict[str, Any] = {"sha256": hashlib.sha256()}
        if "git" in file.hashes:
            self._all["git"] = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
        if "md5" in file.hashes:
            self._all["md5"] = hashlib.md5(usedforsecurity=False)

    def update(self, piece: bytes) -> None:
        """Some more bytes."""
        for one in self._all.values():
            one.update(piece)

    @property
    def sha256(self) -> str:
        """Of all bytes so far."""
        return str(self._all["sha256"].hexdigest())

    @property
    def are_right(self) -> bool:
        """Whether the bytes are those that the source told of, as far as it told."""
        return all(self._all[kind].hexdigest() == said for kind, said in self._known.items())
