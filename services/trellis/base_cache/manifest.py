"""What a fetched base consists of: each file's size and hash."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from trellis.base_cache.errors import DamagedError

MANIFEST: Final = "trellis-base.manifest"
"""Its name in the folder; not `*.json`, which would be one of the model's own files."""
_CHUNK: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class CachedFile:
    """One file of a base."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Written last, when all files are there and on the disk."""

    source: str
    revision: str
    digest: str
    """`sha256:…` over the texts, and the headers and samples of the weights: what is looked at before each use."""
    files: tuple[CachedFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The manifest of a folder. Raises FileNotFoundError, and DamagedError when it can't be one."""
        try:
            value = json.loads((folder / MANIFEST).read_bytes())
            files = tuple(
                CachedFile(str(file["name"]), int(file["size"]), str(file["sha256"])) for file in value["files"]
            )
            return cls(str(value["source"]), str(value["revision"]), str(value["digest"]), files)
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{str(folder / MANIFEST)!r} can't be read ({error}). Fetch the base again.") from None

    def to_json(self) -> str:
        """What stands in the file."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def check_sizes(self, folder: Path) -> None:
        """Raise DamagedError for a file that is missing or has another size."""
        for file in self.files:
            try:
                size = (folder / file.name).stat().st_size
            except FileNotFoundError:
                raise DamagedError(f"{str(folder / file.name)!r} is missing. Fetch the base again.") from None
            if size != file.size:
                raise DamagedError(
                    f"{str(folder / file.name)!r} has {size} bytes, not {file.size}. Fetch the base again."
                )

    def damages(self, folder: Path) -> Iterator[str]:
        """A sentence for each file that is not what was fetched; reads all of them."""
        for file in self.files:
            path = folder / file.name
            if not path.is_file():
                yield f"{file.name} is missing."
            elif path.stat().st_size != file.size:
                yield f"{file.name} has {path.stat().st_size} bytes, not {file.size}."
            elif sha256_of(path) != file.sha256:
                yield f"{file.name} has other bytes than were fetched."


def sha256_of(path: Path) -> str:
    """The hash of a whole file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
