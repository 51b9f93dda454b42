"""Adapters as folders on this machine, for an engine that reads them itself."""

import asyncio
import contextlib
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from trellis.artifacts import AdapterFacts, ArtifactError, check_adapter_folder
from trellis.bases import BaseFacts
from trellis.engine import AdapterRef, TierEvent
from trellis.engine.adapter_files import AdapterFiles, invalid
from trellis.errors import TrellisError


@dataclass(slots=True, eq=False)
class AdapterFolder:
    """An adapter that passed the gate."""

    digest: str
    number: int
    """Of this machine's, from 1; never given twice."""
    path: Path
    loading: asyncio.Task[AdapterFacts]
    users: int = 0


class AdapterFolders:
    """The adapters of one base model: fetched when they are first needed, the least recently used go. For one event loop."""

    def __init__(
        self, files: AdapterFiles, base: BaseFacts, most_bytes: int, on_event: Callable[[TierEvent], None]
    ) -> None:
        self._files = files
        self._base = base
        self._most_bytes = most_bytes
        self._on_event = on_event
        self._root = Path(tempfile.mkdtemp(prefix="trellis-adapters-"))
        self._numbers = itertools.count(1)
        self._folders: dict[str, AdapterFolder] = {}  # the least recently used first

    @property
    def digests(self) -> tuple[str, ...]:
        """Those that are here, the one that was used last at the end."""
        return tuple(self._folders)

    @contextlib.asynccontextmanager
    async def using(self, ref: AdapterRef) -> AsyncIterator[AdapterFolder]:
        """The adapter, which stays for the length of the block. Raises what AdapterFiles raises, and ADAPTER_INVALID."""
        folder = self._folders.pop(ref.digest, None) or self._begin(ref)
        self._folders[ref.digest] = folder
        folder.users += 1
        try:
            await asyncio.shield(folder.loading)
            yield folder
        finally:
            folder.users -= 1
            self._shrink()

    def close(self) -> None:
        """Remove all files."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _begin(self, ref: AdapterRef) -> AdapterFolder:
        number = next(self._numbers)
        path = self._root / str(number)
        path.mkdir()
        loading = asyncio.create_task(asyncio.to_thread(self._load, ref, path))
        return AdapterFolder(ref.digest, number, path, loading)

    def _load(self, ref: AdapterRef, path: Path) -> AdapterFacts:
        try:
            self._files.fetch(ref.digest, ref.key, path)
            facts = check_adapter_folder(path, self._base)
        except (ArtifactError, TrellisError) as error:
            self._on_event(TierEvent.FAILED)
            if isinstance(error, TrellisError):
                raise
            raise invalid(ref.digest, str(error)) from error
        self._on_event(TierEvent.FETCHED)
        return facts

    def _shrink(self) -> None:
        done = [folder for folder in self._folders.values() if folder.loading.done()]
        for folder in done:
            if folder.loading.exception() is not None:
                self._drop(folder)  # the next call tries again
        ready = [folder for folder in done if folder.loading.exception() is None]
        excess = sum(folder.loading.result().size_bytes for folder in ready) - self._most_bytes
        for folder in ready:
            if excess <= 0:
                return
            if folder.users == 0:
                excess -= folder.loading.result().size_bytes
                self._drop(folder)
                self._on_event(TierEvent.DROPPED)

    def _drop(self, folder: AdapterFolder) -> None:
        if self._folders.get(folder.digest) is folder:
            del self._folders[folder.digest]
        shutil.rmtree(folder.path, ignore_errors=True)
