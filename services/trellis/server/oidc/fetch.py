"""What an issuer publishes, over HTTP: its discovery document and its keys. Blocks; called in a thread."""

import json
import ssl
from typing import Any

import httpx

from trellis.server.oidc.issuers import Issuer, IssuerError, check_url

_SECONDS = 5.0
_MOST_BYTES = 1 << 20
_DISCOVERY = "/.well-known/openid-configuration"


class FetchError(Exception):
    """The issuer did not answer, or not as it should; `str()` says how."""


def fetch_keys(issuer: Issuer) -> list[dict[str, Any]]:
    """The issuer's JSON Web Keys, as they are; raises FetchError."""
    verify: ssl.SSLContext | bool = True
    try:
        if issuer.ca_file:
            verify = ssl.create_default_context(cafile=issuer.ca_file)
        with httpx.Client(verify=verify, timeout=_SECONDS, follow_redirects=False) as client:
            url = issuer.jwks_uri or _keys_url(client, issuer)
            keys = _json(client, url).get("keys")
    except (OSError, httpx.HTTPError, httpx.InvalidURL) as error:
        raise FetchError(f"{type(error).__name__}: {error}") from None
    if not isinstance(keys, list):
        raise FetchError(f"{url} holds no list `keys`.")
    return [key for key in keys if isinstance(key, dict)]


def _keys_url(client: httpx.Client, issuer: Issuer) -> str:
    url = issuer.issuer.rstrip("/") + _DISCOVERY
    document = _json(client, url)
    if document.get("issuer") != issuer.issuer:
        raise FetchError(f"{url} is of another issuer.")
    found = str(document.get("jwks_uri", ""))
    try:
        check_url(found, f"jwks_uri in {url}")
    except IssuerError as error:
        raise FetchError(str(error)) from None
    return found


def _json(client: httpx.Client, url: str) -> dict[str, Any]:
    with client.stream("GET", url, headers={"accept": "application/json"}) as response:
        if response.status_code != httpx.codes.OK:
            raise FetchError(f"{url} answered with status {response.status_code}.")
        data = b""
        for chunk in response.iter_bytes():
            data += chunk
            if len(data) > _MOST_BYTES:
                raise FetchError(f"{url} is larger than {_MOST_BYTES} bytes.")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise FetchError(f"{url} holds no JSON.") from None
    if not isinstance(document, dict):
        raise FetchError(f"{url} holds no JSON object.")
    return document
