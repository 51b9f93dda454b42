"""The way to engines: Serve's HTTP proxy, a connection for each stream that runs, kept for the next one."""

import io
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp

from trellis.engine_wire import SECRET_HEADER

UNREACHABLE: Final = (aiohttp.ClientError, OSError)
"""What is raised where an engine is not reached, or breaks off; asyncio's TimeoutError is an OSError too."""
_CONNECT_SECONDS: Final = 5.0
_KEPT_SECONDS: Final = 3.0
"""For less than any proxy keeps an idle connection, so that none is taken that is just being closed."""
_ALIVE: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""A machine that is gone closes no connection: after half a minute of silence in which it does not even acknowledge, a call that
waits for its engine is told."""
_AS_BYTES: Final = 1 << 20
"""A longer body is sent piece by piece."""
_UNSENT: Final = ("User-Agent", "Accept", "Accept-Encoding")


class EngineHttp:
    """Calls to engines, each of which carries the secret."""

    def __init__(self, host: str, port: int, secret: str) -> None:
        self._url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._secret = secret
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def answer(
        self, method: str, path: str, content: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, whose body is still to be read; leaving it unread ends the work. Raises UNREACHABLE."""
        body = content if len(content) <= _AS_BYTES else io.BytesIO(content)
        async with self._opened().request(
            method, f"{self._url}{path}", data=body or None, headers=headers, allow_redirects=False
        ) as response:
            try:
                yield response
            finally:
                if not response.content.at_eof():
                    response.close()

    def _opened(self) -> aiohttp.ClientSession:
        """Made when it is first needed, in the loop that it works in."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEPT_SECONDS, socket_factory=_watched),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={SECRET_HEADER: self._secret},
                skip_auto_headers=_UNSENT,
                auto_decompress=False,
                # An answer may pause for as long as the engine is busy; a replica that dies closes the connection.
                timeout=aiohttp.ClientTimeout(total=None, connect=_CONNECT_SECONDS),
            )
        return self._session


def _watched(address: tuple[Any, ...]) -> socket.socket:
    """A socket whose other end is asked whether it still lives while nothing comes."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _ALIVE.items():
        if hasattr(socket, name):  # not everywhere by these names
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return made
