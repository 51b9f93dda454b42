"""Fetch a base into the cache, once, whatever dies meanwhile."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from trellis.base_cache.amounts import amount
from trellis.base_cache.cache import (
    LAST,
    NEWEST,
    canonical,
    entry_of,
    folder_of,
    is_pinned,
    locate,
    pinned,
    ref_of,
    underway,
)
from trellis.base_cache.download import Downloads
from trellis.base_cache.errors import BaseCacheError, DamagedError, PassingError
from trellis.base_cache.lease import Lease
from trellis.base_cache.manifest import MANIFEST, CachedFile, Manifest
from trellis.base_cache.part import Part, sync_folder
from trellis.base_cache.progress import Event, Meter, Progress, silent
from trellis.base_cache.sources.choose import source_of
from trellis.base_cache.sources.hub import HubSource, hub_is_off
from trellis.base_cache.sources.source import Listing, RemoteFile, Source
from trellis.bases import BaseModelError, check_config, folder_digest

_Seen = TypeVar("_Seen")
_INDEX: Final = "model.safetensors.index.json"
_SINGLE: Final = "model.safetensors"
_LISTING: Final = "listing-"
_RESERVE: Final = 64 << 20
"""Bytes that are left free on the volume."""


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """How to fetch."""

    offline: bool = False
    """Ask nobody; what is not in the cache is missing."""
    workers: int = 4
    """Files that are fetched at once."""
    tries: int = 6
    """So often a file is asked for again without a byte more."""
    lease_seconds: float = 60.0
    """After so long without a sign of life another process takes a fetch over."""
    poll_seconds: float = 2.0
    """How often a process looks whether the one that fetches has ended."""
    sleep: Callable[[float], None] = time.sleep
    free_bytes: Callable[[Path], int] = _free_bytes
    """Of the volume that a folder is on."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """A base that is in the cache."""

    path: Path
    revision: str
    """The hub's commit; of a bucket or a folder its digest."""
    digest: str
    bytes: int
    was_present: bool


def fetch(
    source: str,
    revision: str,
    cache: Path,
    progress: Progress = silent,
    options: FetchOptions = FetchOptions(),
) -> Fetched:
    """Have the base in the cache, with each file held against its hash.

    Without a revision it is the newest one. Raises BaseCacheError for what can't be fetched, and PassingError for what
    may be later; what has come until then is kept for the next fetch.
    """
    _make_folder(entry_of(source, cache) / "refs")
    return _Fetch(source, revision, cache, progress, options).run()


def verify(source: str, revision: str, cache: Path) -> list[str]:
    """Hash every file of a base in the cache: a sentence for each that is not what was fetched.

    Raises BaseCacheError when the base is not in the cache.
    """
    found = pinned(source, revision, cache)
    folder = folder_of(source, found, cache) if found else None
    if folder is None or not folder.is_dir():
        raise BaseCacheError(f"{canonical(source)!r} is not in the cache {str(cache)!r}.")
    return list(Manifest.read(folder).damages(folder))


def repair(source: str, revision: str, cache: Path) -> None:
    """Make a damaged base one that is to be fetched on: its sound files are kept."""
    found = pinned(source, revision, cache)
    folder = folder_of(source, found, cache)
    try:
        Part.reopen(folder, _key(entry_of(source, cache), found), "repair")
    except DamagedError:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return  # another process was faster


def _key(entry: Path, revision: str) -> str:
    """What its fetch was named by: the commit, or the listing that turned out to have this digest."""
    for ref in (entry / "refs").glob(f"{_LISTING}*"):
        if ref.read_text().strip() == revision:
            return ref.name.removeprefix(_LISTING)
    return revision[:16]


class _Fetch:
    def __init__(self, source: str, revision: str, cache: Path, progress: Progress, options: FetchOptions) -> None:
        self._source = canonical(source)
        self._revision = revision
        self._cache = cache
        self._progress = progress
        self._options = options

    def run(self) -> Fetched:
        if is_pinned(self._revision) and (found := self._present(self._revision)):
            self._name(found.revision)
            return found
        with closing(source_of(self._source)) as source:
            if self._options.offline or (isinstance(source, HubSource) and hub_is_off()):
                return self._without_network("The network must not be used")
            return self._from(source)

    def _from(self, source: Source) -> Fetched:
        try:
            listing = source.list(self._revision)
        except PassingError as error:
            return self._without_network(str(error).rstrip("."))
        if not listing.files:
            raise BaseCacheError(f"{self._source} holds no files of a model: no *.json and no *.safetensors.")
        known = listing.revision or self._known(listing)
        if known and (found := self._present(known)):
            self._check_asked(known)
            self._name(found.revision)
            return found
        lease = self._lease(listing)
        if lease is None:
            return self._from(source)  # another process has ended its fetch
        with lease:
            return self._fetch(source, listing, lease)

    def _without_network(self, why: str) -> Fetched:
        found = self._present(self._revision)
        if found is None:
            name = f"{self._source} {self._revision}".strip()
            raise PassingError(f"{why}, and {name} is not in the cache {str(self._cache)!r}.")
        self._say("present", f"{why}; the cache has revision {found.revision}.", found.revision)
        return found

    def _present(self, revision: str) -> Fetched | None:
        """What the cache has; a base whose files are not all there in their sizes is set aside, to be fetched on."""
        try:
            folder = locate(self._source, revision, self._cache)
        except DamagedError as error:
            self._say("retrying", str(error), revision)
            repair(self._source, revision, self._cache)
            return None
        if folder is None:
            return None
        manifest = Manifest.read(folder)
        self._say("present", f"{self._source} is in the cache: {folder}", manifest.revision)
        return Fetched(folder, manifest.revision, manifest.digest, manifest.size, was_present=True)

    def _lease(self, listing: Listing) -> Lease | None:
        path, waited = entry_of(self._source, self._cache) / f".lease-{listing.key}", 0.0
        while (lease := Lease.take(path, self._options.lease_seconds)) is None:
            if waited == 0:
                how_far = underway(self._source, self._cache)
                told = f" ({how_far})" if how_far else ""
                self._say("waiting", f"Another process fetches {self._source}{told}; waiting for it.", listing.revision)
            waited += self._options.poll_seconds
            self._options.sleep(self._options.poll_seconds)
        if waited == 0:
            return lease
        known = listing.revision or self._known(listing)
        if not known or locate(self._source, known, self._cache) is None:
            return lease
        with lease:
            return None

    def _fetch(self, source: Source, listing: Listing, lease: Lease) -> Fetched:
        part = Part.take(entry_of(self._source, self._cache), listing.key, lease.token)
        meter = Meter(self._reported(part), self._source, listing.revision)
        downloads = Downloads(source, listing, part, lease, meter, self._options.tries, self._options.sleep)
        by_name = {file.name: file for file in listing.files}
        first = [by_name[_INDEX]] if _INDEX in by_name else []
        whole = {file.name: downloads.get(file) for file in first}
        files = _chosen(part, by_name)
        total = sum(file.size for file in files)
        self._check_room(part, files)
        meter.begin(sum(file.size for file in first), total)
        lease.on_beat = lambda: part.say_progress(meter.done, total)
        part.say_progress(meter.done, total)
        meter.say("started", f"Fetching {self._source}: {len(files)} files, {amount(total)}.")
        texts = [file for file in files if not file.name.endswith(".safetensors") and file not in first]
        weights = [file for file in files if file.name.endswith(".safetensors")]
        whole.update(self._all(downloads, texts))
        self._check(part, check_config)  # before hours are spent on the weights of what can't be used
        whole.update(self._all(downloads, weights))
        lease.check()
        meter.say("checking", f"All {amount(total)} are here; checking them.")
        lease.on_beat = None
        return self._finish(listing, part, [whole[name] for name in sorted(whole)], meter)

    def _all(self, downloads: Downloads, files: Iterable[RemoteFile]) -> dict[str, CachedFile]:
        pool = ThreadPoolExecutor(self._options.workers, thread_name_prefix="base-cache")
        tasks = [pool.submit(downloads.get, file) for file in files]
        try:
            fetched = [task.result() for task in tasks]
        except BaseException as error:
            downloads.stop.set()
            # Who was told to end does not wait for answers that may never come.
            pool.shutdown(wait=not isinstance(error, KeyboardInterrupt), cancel_futures=True)
            raise
        pool.shutdown()
        return {whole.name: whole for whole in fetched}

    def _finish(self, listing: Listing, part: Part, files: list[CachedFile], meter: Meter) -> Fetched:
        digest = self._check(part, folder_digest)
        revision = listing.revision or digest
        self._check_asked(revision)
        folder = folder_of(self._source, revision, self._cache)
        manifest = Manifest(self._source, revision, digest, tuple(files))
        if not (folder / MANIFEST).is_file():
            shutil.rmtree(folder, ignore_errors=True)
        part.finish(manifest, folder)
        self._name(revision)
        if not listing.revision:
            _write(ref_of(self._source, _LISTING + listing.key, self._cache), revision)
        meter.say("done", f"{self._source} is in the cache: {folder} (revision {revision}, {amount(manifest.size)}).")
        return Fetched(folder, revision, digest, manifest.size, was_present=False)

    def _check(self, part: Part, look: Callable[[Path], _Seen]) -> _Seen:
        try:
            return look(part.path)
        except BaseModelError as error:
            said = str(error).replace(str(part.path), self._source)
            shutil.rmtree(part.path)
            raise BaseCacheError(f"{self._source} can't be used: {said}") from None

    def _check_room(self, part: Part, files: Iterable[RemoteFile]) -> None:
        needed = sum(file.size - part.size_of(file) for file in files)
        free = self._options.free_bytes(part.path)
        if needed + _RESERVE > free:
            message = f"{self._source} needs {amount(needed)} more, and the volume of {str(self._cache)!r} has"
            hint = "Enlarge it, or remove bases that nothing uses: `trellis base-models cached` lists them"
            raise PassingError(f"{message} {amount(free)} free. {hint}.")

    def _known(self, listing: Listing) -> str:
        """The digest of what this listing was when it was fetched before."""
        return pinned(self._source, _LISTING + listing.key, self._cache)

    def _check_asked(self, revision: str) -> None:
        if is_pinned(self._revision) and revision != self._revision:
            message = f"{self._source} holds another model than the one that is asked for: its digest is {revision}"
            raise BaseCacheError(f"{message}, not {self._revision}.")

    def _name(self, revision: str) -> None:
        """Remember which revision was fetched last, and which one the name meant that was asked for."""
        for name in {LAST, LAST if is_pinned(self._revision) else self._revision or NEWEST}:
            if pinned(self._source, name, self._cache) == revision:
                continue  # the volume may be mounted read-only where it is known already
            _write(ref_of(self._source, name, self._cache), revision)

    def _reported(self, part: Part) -> Progress:
        def tell(event: Event) -> None:
            if event.event == "progress":
                part.say_progress(event.done, event.total)
            self._progress(event)

        return tell

    def _say(self, event: str, message: str, revision: str = "") -> None:
        self._progress(Event(event, self._source, revision, message=message))


def _chosen(part: Part, by_name: dict[str, RemoteFile]) -> list[RemoteFile]:
    """All texts, and the weights that the model consists of: hubs often hold them a second time in another split."""
    weights = {name for name in by_name if name.endswith(".safetensors")}
    if _INDEX in by_name:
        try:
            named = set(json.loads((part.path / _INDEX).read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BaseCacheError(f"{_INDEX} does not say in which files the weights are.") from None
        if missing := sorted(map(str, named - weights)):
            raise BaseCacheError(f"The weights' file {missing[0]!r}, which {_INDEX} names, is missing.")
    else:
        named = {_SINGLE} & weights or weights
    return [file for name, file in sorted(by_name.items()) if name not in weights or name in named]


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BaseCacheError(f"The cache's folder {str(path)!r} can't be made ({error.strerror}).") from None


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    with draft.open("w") as stream:
        stream.write(text + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)
    sync_folder(path.parent)
