"""The transport of `AsyncClient`, over grpc.aio."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any, TypeVar

import grpc
import grpc.aio

from trellis.client._blocking_transport import BlockingTransport
from trellis.client._method import Method, Req, Res
from trellis.client._status import error_of_call
from trellis.client._tls import misconfigured, suspicious
from trellis.client._tracing import traced
from trellis.client._transport import Target, version_in
from trellis.errors import Cancelled, TrellisError

T = TypeVar("T")


class AsyncTransport:
    """Carries calls over one channel, which is opened by the first call and belongs to its event loop.

    Uploads go over a blocking channel, in gRPC's threads: their files are read there, and grpc.aio loses the server's
    answer when the server refuses a stream that is still being sent.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._channel: Any = None
        self._uploads = BlockingTransport(target)
        self._closed = False
        self.server_version = ""

    def _open(self) -> Any:
        if self._closed:
            raise Cancelled("CLIENT_CLOSED", "The client is closed.")
        if self._channel is None:
            address, credentials = self._target.settings.address, self._target.credentials
            self._channel = (
                grpc.aio.secure_channel(address, credentials, options=self._target.options)
                if credentials
                else grpc.aio.insecure_channel(address, options=self._target.options)
            )
        return self._channel

    async def unary(self, method: Method[Req, Res], request: Req, timeout: float | None) -> Res:
        """See Transport."""
        call = self._open().unary_unary(method.path, method.request.SerializeToString, method.response.FromString)
        with traced(method.path) as headers:
            try:
                begun = call(request, timeout=timeout, metadata=(*self._target.metadata, *headers))
                answer: Res = await begun
                self.server_version = version_in(await begun.initial_metadata())
            except grpc.RpcError as error:
                raise await self._failure(error) from None
            return answer

    async def stream(self, method: Method[Req, Res], request: Req, timeout: float | None) -> AsyncGenerator[Res, None]:
        """See Transport."""
        start = self._open().unary_stream(method.path, method.request.SerializeToString, method.response.FromString)
        with traced(method.path) as headers:
            call = start(request, timeout=timeout, metadata=(*self._target.metadata, *headers))
            try:
                async for answer in call:
                    yield answer
            except grpc.RpcError as error:
                raise await self._failure(error) from None
            finally:
                call.cancel()

    async def upload(self, method: Method[Req, Res], requests: Iterator[Req], timeout: float | None) -> Res:
        """See Transport."""
        start = self._uploads.open().stream_unary(
            method.path, method.request.SerializeToString, method.response.FromString
        )
        with traced(method.path) as headers:
            call = start.future(requests, timeout=timeout, metadata=(*self._target.metadata, *headers))
            await _ended(call)
            try:
                answer: Res = call.result()
            except grpc.RpcError as error:
                raise await self._failure(error) from None
            return answer

    async def _failure(self, call: Any) -> TrellisError:
        settings = self._target.settings
        wrong = await asyncio.to_thread(misconfigured, call, settings) if suspicious(call) else None
        return wrong or error_of_call(call, settings.endpoint)

    async def sleep(self, seconds: float) -> None:
        """See Transport."""
        await asyncio.sleep(seconds)

    async def in_thread(self, work: Callable[[], T]) -> T:
        """See Transport."""
        return await asyncio.to_thread(work)

    async def close(self) -> None:
        """See Transport."""
        self._closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
        await self._uploads.close()


async def _ended(call: Any) -> None:
    """Wait for a call of the blocking channel; cancelling the wait cancels the call."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def tell(_call: object) -> None:
        with contextlib.suppress(RuntimeError):  # nobody waits any more, and the loop is closed
            loop.call_soon_threadsafe(ended.set)

    call.add_done_callback(tell)
    try:
        await ended.wait()
    except asyncio.CancelledError:
        call.cancel()
        raise
