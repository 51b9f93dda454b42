"""The cache's layout, and its reading side, which writes nothing: a volume may be mounted read-only.

{cache}/{readable name}-{hash of the source}/
    {revision}/                 a whole base with its manifest; it appears by one rename
    refs/{name}                 which revision a name, such as `main`, meant when it was fetched
    .part-{key}.{owner}/        a base that is being fetched, with its progress
    .lease-{key}                who fetches it
"""

import hashlib
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from trellis.base_cache.amounts import part_of, span
from trellis.base_cache.errors import DamagedError
from trellis.base_cache.manifest import MANIFEST, Manifest

VARIABLE: Final = "TRELLIS_BASE_CACHE"
"""Names the cache's folder."""
BUCKET: Final = "s3://"
"""How sources in S3 begin."""
LAST: Final = "last-fetched"
"""The name of what is meant where no revision is given."""
NEWEST: Final = "main"
"""The branch that is fetched where no revision is given."""
PROGRESS: Final = "trellis-base.progress"
_PINNED: Final = re.compile(r"[0-9a-f]{40}|sha256:[0-9a-f]{64}")
_QUIET_SECONDS: Final = 120.0
"""A fetch of which nothing was heard for so long is taken to have ended."""


@dataclass(frozen=True, slots=True)
class Underway:
    """A base of which a part is here."""

    done: int
    total: int
    quiet_seconds: float

    def __str__(self) -> str:
        here = f"{part_of(self.done, self.total)} are here"
        if self.quiet_seconds < _QUIET_SECONDS:
            return f"{here}: it is being fetched"
        return f"{here}, but nobody has fetched on for {span(self.quiet_seconds)}"


@dataclass(frozen=True, slots=True)
class CachedBase:
    """One base in the cache."""

    source: str
    revision: str
    bytes: int
    path: Path


def canonical(source: str) -> str:
    """One spelling of a source: folders by their whole path, prefixes without a slash at the end."""
    if source.startswith(BUCKET):
        return source.rstrip("/")
    folder = Path(source).expanduser()
    return str(folder.resolve()) if folder.is_dir() else source


def entry_of(source: str, cache: Path) -> Path:
    """Where all revisions of a source are."""
    name = canonical(source)
    readable = re.sub(r"[^A-Za-z0-9._]+", "-", name.removeprefix(BUCKET)).strip("-.")[-60:]
    return cache / f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def folder_of(source: str, revision: str, cache: Path) -> Path:
    """Where a pinned revision is, or will be."""
    return entry_of(source, cache) / revision.replace(":", "-")


def ref_of(source: str, name: str, cache: Path) -> Path:
    """The file that says which revision a name means."""
    return entry_of(source, cache) / "refs" / quote(name or LAST, safe="")


def split_revision(text: str) -> tuple[str, str]:
    """`SOURCE@REVISION` as its parts; a path or a bucket's prefix may hold an @ by itself."""
    source, _, revision = text.rpartition("@")
    if source and (is_pinned(revision) or re.fullmatch(r"[\w.-]+/[\w.-]+", source)):
        return source, revision
    return text, ""


def is_pinned(revision: str) -> bool:
    """Whether a revision is a commit or a digest, and not a name that can come to mean another one."""
    return _PINNED.fullmatch(revision) is not None


def pinned(source: str, revision: str, cache: Path) -> str:
    """The commit or digest that a name of a revision meant when it was fetched last; empty when it never was."""
    if is_pinned(revision):
        return revision
    try:
        found = ref_of(source, revision, cache).read_text().strip()
    except FileNotFoundError:
        return ""
    return found if is_pinned(found) else ""


def locate(source: str, revision: str, cache: Path) -> Path | None:
    """The folder of a base in the cache, all of whose files are there in their sizes; None when it is not there.

    Without a revision it is the one that was fetched last, with a branch's name the one that was fetched last under that
    name; nobody is asked. Raises DamagedError when files are missing or have other sizes.
    """
    found = pinned(source, revision, cache)
    if not found:
        return None
    folder = folder_of(source, found, cache)
    try:
        manifest = Manifest.read(folder)
    except FileNotFoundError:
        return None
    if (manifest.source, manifest.revision) != (canonical(source), found):
        raise DamagedError(f"{str(folder)!r} holds {manifest.source} in revision {manifest.revision}. Remove it.")
    manifest.check_sizes(folder)
    return folder


def underway(source: str, cache: Path) -> Underway | None:
    """How far a fetch of any revision of the source has come; None when none was begun."""
    found: list[Underway] = []
    for path in entry_of(source, cache).glob(f".part-*/{PROGRESS}"):
        try:
            value, written = json.loads(path.read_bytes()), path.stat().st_mtime
            found.append(Underway(int(value["done"]), int(value["total"]), max(0.0, time.time() - written)))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # it was finished meanwhile
    return min(found, key=lambda one: one.quiet_seconds, default=None)


def cached(cache: Path) -> Iterator[CachedBase]:
    """All whole bases of the cache, by source and revision."""
    for path in sorted(cache.glob(f"*/*/{MANIFEST}")):
        if path.parent.name.startswith("."):
            continue
        manifest = Manifest.read(path.parent)
        yield CachedBase(manifest.source, manifest.revision, manifest.size, path.parent)
