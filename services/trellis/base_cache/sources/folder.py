"""A folder of this machine, or of a volume."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from trellis.base_cache.errors import BaseCacheError, PassingError
from trellis.base_cache.sources.source import Listing, RemoteFile, is_wanted

_PIECE: Final = 4 << 20


class FolderSource:
    """The files of a folder, which are copied."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder = folder

    def list(self, revision: str) -> Listing:  # noqa: ARG002  a folder has no revisions: the fetch compares the digest
        """The files, by their sizes and times."""
        try:
            found = [
                (path, path.stat())
                for path in sorted(self._folder.iterdir())
                if is_wanted(path.name) and path.is_file()
            ]
        except OSError as error:
            raise BaseCacheError(f"The folder {self.name!r} can't be read ({error.strerror}).") from None
        return Listing("", tuple(RemoteFile(path.name, at.st_size, {}, str(at.st_mtime_ns)) for path, at in found))

    @contextmanager
    def read(self, file: RemoteFile, listing: Listing, offset: int) -> Iterator[Iterator[bytes]]:  # noqa: ARG002  as above
        """Read the file."""
        try:
            with (self._folder / file.name).open("rb") as stream:
                stream.seek(offset)
                yield iter(lambda: stream.read(_PIECE), b"")
        except OSError as error:
            raise PassingError(f"{str(self._folder / file.name)!r} can't be read ({error.strerror}).") from None

    def close(self) -> None:
        """There is nothing to let go."""
