"""A TCP proxy that stands before a server, so that the way to it can be cut, refused, slowed or made a black hole."""

import asyncio
import contextlib
from enum import StrEnum

_PIECE = 64 * 1024
_SLOW_SECONDS = 0.4


class Way(StrEnum):
    """How it is behind the door."""

    OPEN = "OPEN"
    SLOW = "SLOW"
    """Each piece waits."""
    SILENT = "SILENT"
    """Connections are taken and nothing comes through: a black hole."""
    SHUT = "SHUT"
    """Connections are refused, and those that were there are reset: what callers see of a server that was killed."""


class Door:
    """Listens on a port of its own and hands bytes on to `target`, a port of this machine."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.target = target
        self._way = Way.OPEN
        self._flows = asyncio.Event()
        self._flows.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen, and let all through."""
        self._way = Way.OPEN
        self._flows.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def set(self, way: Way) -> None:
        """Change the way, for connections that are there too."""
        await self.open()
        self._way = way
        if way is Way.SILENT:
            self._flows.clear()
        elif way is Way.SHUT:
            await self.close()

    async def close(self) -> None:
        """Refuse, and reset what is there."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError):
                await self._join(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand bytes on both ways until one of the two hangs up."""
        back, out = await asyncio.open_connection("127.0.0.1", self.target)
        flows = [asyncio.create_task(self._pass_on(reader, out)), asyncio.create_task(self._pass_on(back, writer))]
        try:
            await asyncio.wait(flows, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for flow in flows:
                flow.cancel()
            await asyncio.gather(*flows, return_exceptions=True)
            out.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(_PIECE):
            await self._flows.wait()
            if self._way is Way.SLOW:
                await asyncio.sleep(_SLOW_SECONDS)
            writer.write(piece)
            await writer.drain()
