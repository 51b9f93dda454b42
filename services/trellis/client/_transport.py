"""What carries calls. Two implementations: one blocks, one is asyncio's; all that is above them is written once."""

from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import grpc

from trellis.client._addresses import options_for
from trellis.client._method import Method, Req, Res
from trellis.client._tls import credentials_of
from trellis.client.settings import Settings

T = TypeVar("T")
_VERSION = "x-trellis-version"

OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", 64 << 20),  # a report holds up to 10,000 errors
    ("grpc.max_send_message_length", 8 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    # A restarted server is found again before a call has been tried for the last time, though the others be gone by then.
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.primary_user_agent", "trellis-python"),
    # A quiet stream over a dead network is noticed; Trellis' server allows pings every five seconds.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class Transport(Protocol):
    """Carries calls and passes time; failed calls raise TrellisError, with no retries."""

    async def unary(self, method: Method[Req, Res], request: Req, timeout: float | None) -> Res:
        """One request, one answer."""

    def stream(self, method: Method[Req, Res], request: Req, timeout: float | None) -> AsyncGenerator[Res, None]:
        """One request, many answers; closing it cancels the call."""

    async def upload(self, method: Method[Req, Res], requests: Iterator[Req], timeout: float | None) -> Res:
        """Many requests, one answer. The iterator may be run in another thread."""

    @property
    def server_version(self) -> str:
        """What the server last said that it is; empty before the first answer."""

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do work that blocks."""

    async def close(self) -> None:
        """End all calls and let the connection go."""


def version_in(metadata: Iterable[tuple[str, Any]] | None) -> str:
    """The server's version, as the metadata of its answer says it; empty if it does not."""
    return next((str(value) for key, value in metadata or () if key == _VERSION), "")


@dataclass(frozen=True, slots=True)
class Target:
    """Where calls go to, and with what."""

    settings: Settings
    credentials: grpc.ChannelCredentials | None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a call that is made now says of who makes it. Raises InvalidArgument for a key that can't be one."""
        key = self.settings.key()
        return (("authorization", f"Bearer {key}"),) if key else ()

    @property
    def options(self) -> tuple[tuple[str, Any], ...]:
        """The channel's."""
        return (*OPTIONS, *options_for(self.settings.address))

    @classmethod
    def of(cls, settings: Settings) -> "Target":
        """What the settings say; reads the files of TLS. Raises OSError where one can't be read, InvalidArgument."""
        return cls(settings, credentials_of(settings))
