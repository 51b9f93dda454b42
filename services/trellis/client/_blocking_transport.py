"""The transport of `Client`: every method blocks, so its coroutines never suspend."""

import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, TypeVar

import grpc

from trellis.client._method import Method, Req, Res
from trellis.client._status import error_of_call
from trellis.client._tls import misconfigured
from trellis.client._tracing import traced
from trellis.client._transport import Target, version_in
from trellis.errors import Cancelled, TrellisError

T = TypeVar("T")


class BlockingTransport:
    """Carries calls over one blocking channel, which several threads may share."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._lock = threading.Lock()
        self._channel: Any = None
        self._closed = threading.Event()
        self.server_version = ""

    def open(self) -> Any:
        """The channel; opened by the first call. Raises Cancelled once the client is closed."""
        with self._lock:
            if self._closed.is_set():
                raise Cancelled("CLIENT_CLOSED", "The client is closed.")
            if self._channel is None:
                address, credentials = self._target.settings.address, self._target.credentials
                self._channel = (
                    grpc.secure_channel(address, credentials, options=self._target.options)
                    if credentials
                    else grpc.insecure_channel(address, options=self._target.options)
                )
            return self._channel

    async def unary(self, method: Method[Req, Res], request: Req, timeout: float | None) -> Res:
        """See Transport."""
        call = self.open().unary_unary(method.path, method.request.SerializeToString, method.response.FromString)
        with traced(method.path) as headers:
            try:
                answered: tuple[Res, Any] = call.with_call(
                    request, timeout=timeout, metadata=(*self._target.metadata, *headers)
                )
            except grpc.RpcError as error:
                raise self._failure(error) from None
        answer, done = answered
        self.server_version = version_in(done.initial_metadata())
        return answer

    async def stream(self, method: Method[Req, Res], request: Req, timeout: float | None) -> AsyncGenerator[Res, None]:
        """See Transport."""
        start = self.open().unary_stream(method.path, method.request.SerializeToString, method.response.FromString)
        with traced(method.path) as headers:
            call = start(request, timeout=timeout, metadata=(*self._target.metadata, *headers))
            try:
                for answer in call:
                    yield answer
            except grpc.RpcError as error:
                raise self._failure(error) from None
            finally:
                call.cancel()

    async def upload(self, method: Method[Req, Res], requests: Iterator[Req], timeout: float | None) -> Res:
        """See Transport."""
        call = self.open().stream_unary(method.path, method.request.SerializeToString, method.response.FromString)
        with traced(method.path) as headers:
            try:
                answer: Res = call(requests, timeout=timeout, metadata=(*self._target.metadata, *headers))
            except grpc.RpcError as error:
                raise self._failure(error) from None
            return answer

    def _failure(self, call: Any) -> TrellisError:
        settings = self._target.settings
        return misconfigured(call, settings) or error_of_call(call, settings.endpoint)

    async def sleep(self, seconds: float) -> None:
        """See Transport; closing the client ends it."""
        self._closed.wait(seconds)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """See Transport; here, in this very thread."""
        return work()

    async def close(self) -> None:
        """See Transport."""
        self._closed.set()
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
