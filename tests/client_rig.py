"""Both clients over transports whose time does not pass, behind one face."""

import contextlib
import inspect
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc

from tests.fake_server import KEY, FakeServer
from trellis.client import AsyncClient, Client, Retry
from trellis.client._async_transport import AsyncTransport
from trellis.client._blocking_transport import BlockingTransport
from trellis.client._caller import Caller
from trellis.client._transport import Target
from trellis.client.settings import resolve

T = TypeVar("T")


@dataclass
class Time:
    """A clock that only sleeping moves."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)
    on_sleep: Callable[[], None] | None = None
    """Called at the next pause, once: for what is to change while the client waits."""

    def pass_(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        if self.on_sleep:
            then, self.on_sleep = self.on_sleep, None
            then()


class QuickBlocking(BlockingTransport):
    """Sleeps no longer than it takes the connection to come back."""

    def __init__(self, target: Target, time: Time, server: FakeServer) -> None:
        super().__init__(target)
        self._time, self._server = time, server

    async def sleep(self, seconds: float) -> None:
        self._time.pass_(seconds)
        if self._server.running:
            with contextlib.suppress(grpc.RpcError):  # no such method: whoever says so is there
                self.open().unary_unary("/there")(b"", wait_for_ready=True, timeout=20)


class QuickAsync(AsyncTransport):
    """As QuickBlocking."""

    def __init__(self, target: Target, time: Time, server: FakeServer) -> None:
        super().__init__(target)
        self._time, self._server = time, server

    async def sleep(self, seconds: float) -> None:
        self._time.pass_(seconds)
        if self._server.running:
            with contextlib.suppress(grpc.RpcError):
                await self._open().unary_unary("/there")(b"", wait_for_ready=True, timeout=20)
            with contextlib.suppress(grpc.RpcError):
                self._uploads.open().unary_unary("/there")(b"", wait_for_ready=True, timeout=20)


@dataclass
class Rig:
    """A client of either kind, the server that it calls, and its time."""

    client: Any
    server: FakeServer
    time: Time

    async def close(self) -> None:
        await got(self.client.close())


def make(kind: str, server: FakeServer, *, key: str = KEY, tenant: str = "acme", **retry: Any) -> Rig:
    """A rig with a `Client` or an `AsyncClient`."""
    time = Time()
    settings = resolve(server.endpoint, key, tenant=tenant, environ={"TRELLIS_CONFIG": "/nowhere/config.toml"})
    transport_class: Any = QuickBlocking if kind == "Client" else QuickAsync
    transport = transport_class(Target.of(settings), time, server)
    caller = Caller(
        transport,
        30.0,
        Retry(**retry),
        clock=lambda: time.now,
        chance=lambda: 0.5,
    )
    client_class: Any = Client if kind == "Client" else AsyncClient
    return Rig(client_class.over(settings, caller), server, time)


async def got(value: Any) -> Any:
    """What a method of either client gives."""
    return await value if inspect.isawaitable(value) else value


async def all_of(items: Iterable[T] | AsyncIterable[T]) -> list[T]:
    """All that an iterator of either client gives."""
    if isinstance(items, AsyncIterable):
        return [item async for item in items]
    return list(items)


async def first_of(items: Any, count: int) -> list[Any]:
    """The first things that an iterator gives; then it is closed."""
    found = []
    if isinstance(items, AsyncIterable):
        async for item in items:
            found.append(item)
            if len(found) == count:
                break
        await items.aclose()  # type: ignore[attr-defined]
        return found
    with items:
        return [next(items) for _ in range(count)]
