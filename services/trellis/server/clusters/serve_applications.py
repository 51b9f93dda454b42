"""Where Ray Serve is told what to run, and says what it runs: the REST API of Ray's dashboard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import httpx

from trellis.errors import Reason, Unavailable
from trellis.server.clusters.ray_token import RayToken

_RETRY_SECONDS: Final = 2.0
_PATH: Final = "/api/serve/applications/"


class Applications(Protocol):
    """Ray Serve's applications. Calls raise Unavailable."""

    async def present(self) -> dict[str, dict[str, Any]]:
        """By name: what Serve says of each; `deployed_app_config` is what was declared of it, if anything is."""
        ...

    async def declare(self, config: Mapping[str, Any]) -> None:
        """Have Serve run just what this configuration says."""
        ...

    async def close(self) -> None:
        """Closes the connections."""
        ...


class DashboardApplications:
    """`Applications` of one Ray cluster, which forgets them with its head; `token` is what Ray asks for, or its file."""

    def __init__(self, url: str, token: str | Path = "", transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"),
            auth=RayToken(token),
            timeout=httpx.Timeout(60.0, connect=5.0),
            transport=transport,
        )

    async def present(self) -> dict[str, dict[str, Any]]:
        """By name: what Serve says of each."""
        applications: dict[str, dict[str, Any]] = (await self._call("GET")).json().get("applications") or {}
        return applications

    async def declare(self, config: Mapping[str, Any]) -> None:
        """Have Serve run just what this configuration says."""
        await self._call("PUT", json=config)

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def _call(self, method: str, **arguments: Any) -> httpx.Response:
        try:
            response = await self._http.request(method, _PATH, **arguments)
        except httpx.HTTPError as error:
            raise _unavailable(f"Ray's dashboard at {self._http.base_url} can't be reached: {error}") from error
        if not response.is_success:
            raise _unavailable(f"Ray Serve answered {response.status_code}: {last_line(response.text)}")
        return response


def last_line(text: str) -> str:
    """What an error's text ends with, which says what was wrong."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no more is known")


def _unavailable(message: str) -> Unavailable:
    return Unavailable(Reason.ENGINE_UNAVAILABLE, message, retry_after=_RETRY_SECONDS)
