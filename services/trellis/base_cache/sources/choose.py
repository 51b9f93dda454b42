"""Which kind a source is."""

import re
from pathlib import Path
from typing import Final

from trellis.base_cache.cache import BUCKET, canonical
from trellis.base_cache.errors import BaseCacheError
from trellis.base_cache.sources.bucket import BucketSource
from trellis.base_cache.sources.folder import FolderSource
from trellis.base_cache.sources.hub import HubSource
from trellis.base_cache.sources.source import Source

_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")


def source_of(source: str) -> Source:
    """The source of this name; raises BaseCacheError for what is none."""
    name = canonical(source)
    if name.startswith(BUCKET):
        if not name.removeprefix(BUCKET):
            raise BaseCacheError("Give the bucket and the prefix of the model, as s3://bucket/prefix.")
        return BucketSource(name)
    if Path(name).is_dir():
        return FolderSource(Path(name))
    if not _HUB_ID.fullmatch(name):
        raise BaseCacheError(f"{source!r} is no folder here, no s3://bucket/prefix, and no id of the hub.")
    return HubSource(name)
