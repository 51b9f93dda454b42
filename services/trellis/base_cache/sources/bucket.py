"""A prefix of a bucket that speaks S3's protocol; credentials and endpoint come from the usual AWS_… variables."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import fsspec

from trellis.base_cache.errors import BaseCacheError, PassingError
from trellis.base_cache.sources.source import Listing, RemoteFile, is_wanted

_PIECE: Final = 16 << 20
_WHOLE: Final = re.compile(r"[0-9a-f]{32}")


class BucketSource:
    """The objects right below `s3://bucket/prefix`."""

    def __init__(self, url: str, **options: Any) -> None:
        self.name = url
        self._fs, self._root = fsspec.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True, **options)

    def list(self, revision: str) -> Listing:  # noqa: ARG002  objects have no revisions: the fetch compares the digest
        """The objects, by their sizes and ETags."""
        try:
            found = self._fs.ls(self._root, detail=True, refresh=True)
        except Exception as error:  # noqa: BLE001  the errors of clients of S3 have no common root
            raise self._translated(error) from None
        files = (_file(one, self._root) for one in found if one["type"] == "file")
        return Listing("", tuple(file for file in files if is_wanted(file.name)))

    @contextmanager
    def read(self, file: RemoteFile, listing: Listing, offset: int) -> Iterator[Iterator[bytes]]:  # noqa: ARG002  as above
        """Read the object; one that was replaced since it was listed is refused by its ETag."""
        try:
            # Without a cache, each read is one request, which asks for this ETag.
            with self._fs.open(f"{self._root}/{file.name}", "rb", cache_type="none") as stream:
                if str(stream.details.get("ETag", "")) != file.tag:
                    raise PassingError(f"{self.name}/{file.name} was replaced while it was fetched.")
                yield self._pieces(stream, file, offset)
        except BaseCacheError:
            raise
        except Exception as error:  # noqa: BLE001  the errors of clients of S3 have no common root
            raise self._translated(error) from None

    def _pieces(self, stream: Any, file: RemoteFile, offset: int) -> Iterator[bytes]:
        for start in range(offset, file.size, _PIECE):
            size = min(_PIECE, file.size - start)
            stream.seek(start)
            piece = bytes(stream.read(size))
            if len(piece) != size:  # what comes of a connection that was cut may look like the end
                raise PassingError(f"{self.name} gave {len(piece)} of {size} bytes of {file.name}.")
            yield piece

    def close(self) -> None:
        """There is nothing to let go."""

    def _translated(self, error: Exception) -> BaseCacheError:
        if isinstance(error, FileNotFoundError):
            return BaseCacheError(f"There is nothing at {self.name}.")
        if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
            why = str(error).strip() or type(error).__name__
            return BaseCacheError(f"{self.name} may not be read with the credentials in AWS_… ({why}).")
        return PassingError(f"{self.name} can't be reached ({type(error).__name__}: {error}).")


def _file(value: Mapping[str, Any], root: str) -> RemoteFile:
    tag = str(value.get("ETag", ""))
    md5 = tag.strip('"')
    # Of an object that came in one part, and is not encrypted with a key of KMS, it is the hash.
    plain = _WHOLE.fullmatch(md5) is not None and not value.get("ServerSideEncryption")
    name = str(value["name"]).removeprefix(root.rstrip("/") + "/")
    return RemoteFile(name, int(value["size"]), {"md5": md5} if plain else {}, tag)
