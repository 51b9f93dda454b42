"""The one door of all calls: request id, authentication, authorisation, errors, metrics, access log."""

import asyncio
import importlib.metadata
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import structlog
from google.protobuf.message import Message
from grpc_status import rpc_status  # type: ignore[import-untyped]

from trellis.errors import InvalidArgument, Reason, TrellisError, Unavailable, error_for
from trellis.names import tenant_of
from trellis.server.app.audit import Actor, act_as
from trellis.server.app.authentication import authenticate
from trellis.server.app.context import Context
from trellis.server.app.shares import require_shared
from trellis.server.domain.caller import Role, Scope
from trellis.server.rpc import calls, metrics
from trellis.server.rpc.access import Access
from trellis.server.rpc.calls import Call
from trellis.server.rpc.spans import begin_call, end_call
from trellis.server.rpc.statuses import status_code, status_of
from trellis.tracing import within

ServicerContext = Any
_log = structlog.get_logger(__name__)
_CHANGING = frozenset({Scope.WRITE, Scope.MANAGE})
_REFUSED = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
_PROCESSES = frozenset({Role.ATTEMPT, Role.TRAINER})
_KNOWN_FOR = timedelta(minutes=1)
"""A stream goes on for so long after its key was revoked, or its token has expired, and is given nothing after that."""
_VERSION = importlib.metadata.version("trellis")


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Lets a call through to its servicer when its caller may make it.

    `methods` has every method that is guarded; the others (health, reflection) are open to all.
    """

    def __init__(self, context: Context, methods: Mapping[str, Access]) -> None:
        self._context = context
        self._methods = methods
        self._refusals = context.refusals

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler, guarded."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        access = self._methods.get(method)
        if handler is None or access is None:
            return handler
        codec = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary:
            guarded = self._unary_unary(method, access, handler.unary_unary)
            return grpc.unary_unary_rpc_method_handler(guarded, **codec)
        if handler.unary_stream:
            streamed = self._unary_stream(method, access, handler.unary_stream)
            return grpc.unary_stream_rpc_method_handler(streamed, **codec)
        assert handler.stream_unary, f"{method} streams both ways, which nothing here does"
        received = self._stream_unary(method, access, handler.stream_unary)
        return grpc.stream_unary_rpc_method_handler(received, **codec)

    def _unary_unary(self, method: str, access: Access, answer: Any) -> Any:
        async def guarded(request: Message, context: ServicerContext) -> Any:
            async with self._answering(method, context) as call:
                call.resource = access.name_in(request) or ""
                actor = await self._identify(call, access, context)
                await self._authorise(call, access, request)
                response = await answer(request, context)
                _expect_recorded(access, actor)
                return response

        return guarded

    def _unary_stream(self, method: str, access: Access, answer: Any) -> Any:
        # Writes to the context: a cancelled call then ends the servicer's generator at once, wherever it is.
        async def guarded(request: Message, context: ServicerContext) -> None:
            async with self._answering(method, context) as call:
                call.resource = access.name_in(request) or ""
                await self._identify(call, access, context)
                await self._authorise(call, access, request)
                known = self._context.now()
                async with aclosing(answer(request, context)) as responses:
                    async for response in responses:
                        if self._context.now() - known >= _KNOWN_FOR:
                            await self._identify(call, access, context)
                            await self._authorise(call, access, request)
                            known = self._context.now()
                        await context.write(response)

        return guarded

    def _stream_unary(self, method: str, access: Access, answer: Any) -> Any:
        async def guarded(requests: AsyncIterator[Message], context: ServicerContext) -> Any:
            async with self._answering(method, context) as call:
                actor = await self._identify(call, access, context)
                first = await anext(aiter(requests), None)
                if first is None:
                    raise InvalidArgument.for_field("header", "The stream has no message; the first must be a header.")
                await self._authorise(call, access, first)
                response = await answer(_chained(first, requests), context)
                _expect_recorded(access, actor)
                return response

        return guarded

    @asynccontextmanager
    async def _answering(self, method: str, context: ServicerContext) -> AsyncIterator[Call]:
        metadata = calls.metadata_of(context)
        call = calls.begin(method, metadata, context.peer())
        span = begin_call(call, metadata, is_process=self._methods[method].role in _PROCESSES)
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=call.request_id)
        begun, status, why = time.perf_counter(), grpc.StatusCode.OK, dict[str, str]()
        with metrics.IN_FLIGHT.labels(method).track_inprogress(), within(span):
            try:
                await context.send_initial_metadata(((calls.REQUEST_ID, call.request_id), (calls.VERSION, _VERSION)))
                yield call
            except asyncio.CancelledError:
                status = grpc.StatusCode.CANCELLED
                raise
            except Exception as error:  # noqa: BLE001 - the edge of every rpc; logged in _translated
                translated = _translated(error, call)
                status = status_code(translated)
                why = {"reason": translated.reason} | (
                    {"check": check} if (check := translated.metadata.get("check")) else {}
                )
                for violation in translated.quota_violations:
                    metrics.REFUSALS.labels(violation.limit).inc()
                self._note_refusal(call, status)
                await _abort(context, translated, call.request_id)
            finally:
                seconds = time.perf_counter() - begun
                metrics.CALLS.labels(method, status.name).inc()
                metrics.SECONDS.labels(method).observe(seconds)
                _log.info("rpc", method=method, status=status.name, seconds=round(seconds, 4), **why)
                end_call(span, call, status, why)

    async def _identify(self, call: Call, access: Access, context: ServicerContext) -> Actor:
        authorization = calls.metadata_of(context).get("authorization", "")
        call.caller = await authenticate(self._context, authorization)
        actor = call.actor()
        act_as(actor)
        access.check_role(call.caller)
        attempt = call.caller.attempt
        if attempt is not None:
            structlog.contextvars.bind_contextvars(tenant=attempt.tenant, job=attempt.job_uid, attempt=attempt.attempt)
        elif call.caller.trainer_uid:
            structlog.contextvars.bind_contextvars(trainer=call.caller.trainer_uid)
        elif call.caller.tenant is not None:
            structlog.contextvars.bind_contextvars(tenant=call.caller.tenant)
        return actor

    def _note_refusal(self, call: Call, status: grpc.StatusCode) -> None:
        if status in _REFUSED:
            self._refusals.note(call.actor(), status.name, call.caller.tenant if call.caller else None, call.resource)

    async def _authorise(self, call: Call, access: Access, request: Message) -> None:
        assert call.caller is not None
        call.resource = access.name_in(request) or ""
        name = call.resource
        if access.asks_for_share(call.caller, name):
            await require_shared(self._context, call.caller, name)
        else:
            access.check_tenant(call.caller, request)
        if tenant := tenant_of(name):
            structlog.contextvars.bind_contextvars(tenant=tenant)
        if "/tuningJobs/" in name:
            structlog.contextvars.bind_contextvars(job=name[:200])


def _expect_recorded(access: Access, actor: Actor) -> None:
    """A use case that changes something must say so in the audit trail, in the transaction that does it."""
    assert access.scope not in _CHANGING or not actor.forgot, f"{actor.method} changed something and recorded nothing"


async def _chained(first: Message, rest: AsyncIterator[Message]) -> AsyncIterator[Message]:
    yield first
    async for message in rest:
        yield message


def _translated(error: Exception, call: Call) -> TrellisError:
    """The error as its caller hears it; what nobody foresaw is logged whole, and told by its request id alone."""
    if not isinstance(error, TrellisError):
        _log.exception("rpc_failed", method=call.method)
        message = f"The server failed to answer; its logs say more under the request id {call.request_id}."
        return error_for(Reason.INTERNAL, message, metadata={"request_id": call.request_id})
    is_worker = call.caller is not None and call.caller.role in {Role.ATTEMPT, Role.TRAINER}
    if is_worker and error.STATUS == "ABORTED" and error.reason != Reason.ATTEMPT_FENCED:
        # To a worker ABORTED means that it must stop; what may pass is something else.
        return Unavailable(error.reason, str(error), metadata=error.metadata, retry_after=error.retry_after or 0.1)
    return error


async def _abort(context: ServicerContext, error: TrellisError, request_id: str) -> None:
    status = rpc_status.to_status(status_of(error, request_id))
    await context.abort(status.code, status.details, status.trailing_metadata)
