"""A base while it is fetched: a folder of its fetcher alone, which the next one takes over with all that is whole."""

import contextlib
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Final, Self

from trellis.base_cache.cache import PROGRESS
from trellis.base_cache.manifest import MANIFEST, CachedFile, Manifest
from trellis.base_cache.sources.source import Hashes, RemoteFile

_JOURNAL: Final = "trellis-base.journal"
_CHUNK: Final = 4 << 20


class Part:
    """The folder, and which of its files are whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._whole = {file.name: file for file in _read_journal(path / _JOURNAL)}

    @classmethod
    def take(cls, entry: Path, key: str, token: str) -> Self:
        """Take over what the one before left, or begin with nothing."""
        mine = entry / f".part-{key}.{token}"
        for left in sorted(entry.glob(f".part-{key}.*"), key=_bytes, reverse=True):
            # By its rename: who had it before, and still lives, finds nothing under its name any more.
            with contextlib.suppress(OSError):
                left.rename(mine) if not mine.exists() else shutil.rmtree(left)
        mine.mkdir(exist_ok=True)
        return cls(mine)

    @classmethod
    def reopen(cls, folder: Path, key: str, token: str) -> Self:
        """Make a whole base that is damaged one that is being fetched, with the files that are sound."""
        manifest = Manifest.read(folder)
        mine = folder.parent / f".part-{key}.{token}"
        folder.rename(mine)
        (mine / MANIFEST).unlink()
        part = cls(mine)
        for file in manifest.files:
            part.note(file)
        return part

    def size_of(self, file: RemoteFile) -> int:
        """How many bytes of it are here."""
        try:
            return min((self.path / file.name).stat().st_size, file.size)
        except FileNotFoundError:
            return 0

    def sound(self, file: RemoteFile) -> tuple[Hashes, int]:
        """The bytes that need not be fetched again, by hash and number; what is not sound is removed.

        The beginning of a file counts only when the source's hash will show whether it was right.
        """
        path, hashes = self.path / file.name, Hashes(file)
        noted = self._whole.get(file.name)
        size = path.stat().st_size if path.is_file() else 0
        if size and size <= file.size and (file.hashes or (noted is not None and noted.size == size == file.size)):
            with path.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    hashes.update(chunk)
            known = noted is None or noted.sha256 == hashes.sha256
            if size < file.size or (hashes.are_right and known):
                return hashes, size
        path.unlink(missing_ok=True)
        return Hashes(file), 0

    def note(self, file: CachedFile) -> None:
        """Write down that a file is whole, with its hash."""
        with self._lock, (self.path / _JOURNAL).open("a") as stream:
            stream.write(json.dumps([file.name, file.size, file.sha256]) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
            self._whole[file.name] = file

    def say_progress(self, done: int, total: int) -> None:
        """Let readers know how far it is; nobody waits for this to be on the disk."""
        draft = self.path / f"{PROGRESS}.new"
        with contextlib.suppress(OSError):
            draft.write_text(json.dumps({"done": done, "total": total}))
            draft.replace(self.path / PROGRESS)

    def finish(self, manifest: Manifest, folder: Path) -> bool:
        """Make it the whole base; False when another one was faster."""
        wanted = {file.name for file in manifest.files}
        for path in self.path.iterdir():
            if path.name not in wanted:
                path.unlink()
        with (self.path / MANIFEST).open("w") as stream:
            stream.write(manifest.to_json())
            stream.flush()
            os.fsync(stream.fileno())
        sync_folder(self.path)
        try:
            self.path.rename(folder)
        except OSError:
            if not (folder / MANIFEST).is_file():
                raise
            shutil.rmtree(self.path)
            return False
        sync_folder(folder.parent)
        return True


def sync_folder(path: Path) -> None:
    """Have a folder's names on the disk, where its file system can do that."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _bytes(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except OSError:
        return 0  # somebody else takes it


def _read_journal(path: Path) -> list[CachedFile]:
    if not path.exists():
        return []
    found = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError, TypeError):  # the last line may be cut off
            name, size, sha256 = json.loads(line)
            found.append(CachedFile(str(name), int(size), str(sha256)))
    return found
