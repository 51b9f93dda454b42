"""The token that Ray asks for."""

from collections.abc import Generator
from pathlib import Path

import httpx


class RayToken(httpx.Auth):
    """Puts the token on every call: a text, or what stands in a file then, which may be made and changed at any time."""

    def __init__(self, token: str | Path = "") -> None:
        self._token = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """See httpx.Auth."""
        if token := self._read():
            request.headers["authorization"] = f"Bearer {token}"
        yield request

    def _read(self) -> str:
        if isinstance(self._token, str):
            return self._token
        try:
            return self._token.read_text(encoding="utf-8").strip()
        except OSError:  # not yet: Ray answers that it asks for one
            return ""
