"""The hub, by its HTTP API: https://huggingface.co/docs/hub/api."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

import httpx
from huggingface_hub import get_token

from trellis.base_cache.errors import BaseCacheError, PassingError
from trellis.base_cache.sources.source import Listing, RemoteFile, is_wanted

_TIMEOUT: Final = httpx.Timeout(60.0, connect=15.0)
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


def hub_is_off() -> bool:
    """Whether HF_HUB_OFFLINE says that the hub must not be called."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


class HubSource:
    """A model of the hub; gated ones need HF_TOKEN."""

    def __init__(self, hub_id: str) -> None:
        self.name = hub_id
        self._endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
        token = get_token()
        headers = {"user-agent": "trellis", "accept-encoding": "identity"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        self._client = httpx.Client(headers=headers, timeout=_TIMEOUT, follow_redirects=True)
        self._has_token = bool(token)

    def list(self, revision: str) -> Listing:
        """Ask for the commit that the revision is, and for the sizes and hashes of its files."""
        wanted = quote(revision or "main", safe="")
        try:
            response = self._client.get(
                f"{self._endpoint}/api/models/{self.name}/revision/{wanted}", params={"blobs": "true"}
            )
            self._check(response, revision)
            value = response.json()
            files = tuple(_file(one) for one in value["siblings"] if is_wanted(str(one["rfilename"])))
            return Listing(str(value["sha"]), files)
        except httpx.HTTPError as error:
            raise self._unreached(error) from None
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, BaseCacheError):
                raise
            raise PassingError(f"{self._endpoint} answered what is not the hub's API ({error!r}).") from None

    @contextmanager
    def read(self, file: RemoteFile, listing: Listing, offset: int) -> Iterator[Iterator[bytes]]:
        """Read the file of that commit."""
        url = f"{self._endpoint}/{self.name}/resolve/{listing.revision}/{quote(file.name)}"
        headers = {"range": f"bytes={offset}-"} if offset else {}
        try:
            with self._client.stream("GET", url, headers=headers) as response:
                if response.is_error:
                    response.read()
                self._check(response, listing.revision)
                yield _from(response, offset)
        except httpx.HTTPError as error:
            raise self._unreached(error) from None

    def close(self) -> None:
        """Let the connections go."""
        self._client.close()

    def _check(self, response: httpx.Response, revision: str) -> None:
        if not response.is_error:
            return
        code, status = response.headers.get("x-error-code", ""), response.status_code
        if status in _PASSING:
            raise PassingError(f"{self._endpoint} answered {status} for {self.name!r}.")
        if code == "RevisionNotFound":
            raise BaseCacheError(f"{self.name!r} has no revision {revision!r} on the hub.")
        if status == 403 or code == "GatedRepo":
            who = "the account of HF_TOKEN has not" if self._has_token else "no HF_TOKEN is given"
            raise BaseCacheError(
                f"{self.name!r} is gated: its owner gives it to accounts that asked, and {who}. Ask for it at "
                f"{self._endpoint}/{self.name}, and give a token of that account as HF_TOKEN."
            )
        if status in {401, 404}:
            what = "the token in HF_TOKEN may not read it" if self._has_token else "it needs a token in HF_TOKEN"
            raise BaseCacheError(f"{self.name!r} is no model on the hub, or a private one and {what}.")
        raise BaseCacheError(f"{self._endpoint} refuses {self.name!r} with status {status}.")

    def _unreached(self, error: Exception) -> PassingError:
        return PassingError(f"The hub at {self._endpoint} can't be reached ({str(error) or type(error).__name__}).")


def _from(response: httpx.Response, offset: int) -> Iterator[bytes]:
    """The bytes from `offset` on, also of a server that knows no ranges."""
    skip = offset if response.status_code == 200 else 0
    for piece in response.iter_raw():  # as they come: what is gathered first is lost when the connection is cut
        if skip >= len(piece):
            skip -= len(piece)
            continue
        yield piece[skip:]
        skip = 0


def _file(value: Mapping[str, Any]) -> RemoteFile:
    lfs = value.get("lfs") or {}
    if lfs.get("sha256"):
        return RemoteFile(str(value["rfilename"]), int(lfs["size"]), {"sha256": str(lfs["sha256"])})
    git = {"git": str(value["blobId"])} if value.get("blobId") else {}
    return RemoteFile(str(value["rfilename"]), int(value["size"]), git)
