"""Calls of the server's WorkerService, repeated until they are answered."""

import itertools
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

import grpc
from google.rpc.status_pb2 import Status

from trellis.tracing import TRACEPARENT
from trellis.v1 import worker_pb2
from trellis.v1.worker_pb2_grpc import WorkerServiceStub
from trellis_jobs.failure import Cause

FENCED_EXIT: Final = 3
_CALL_SECONDS: Final = 10.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
_FENCED: Final = frozenset({
    grpc.StatusCode.ABORTED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND
})  # fmt: skip
"""Answers after which the attempt is not ours any more: fenced, or its job was deleted with all that knew the token."""
_REFUSED: Final = frozenset({
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED
})  # fmt: skip
_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
)
_SAID_AFTER: Final = 5
"""So many tries of a call fail before the log says so, once: TLS that is set up wrongly looks like a server that is away."""
_Response = TypeVar("_Response")
_log = logging.getLogger(__name__)


class RefusedError(Exception):
    """The server does not take the call, however often it is repeated; `str()` is its reason."""


class FencedError(RefusedError):
    """The attempt is not ours any more: another has begun, or its job has ended."""


def exit_fenced() -> None:
    """End the process at once, without touching anything: another attempt has begun, or the job has ended."""
    os._exit(FENCED_EXIT)


def open_channel(endpoint: str, trusted: str) -> grpc.Channel:
    """A channel to `host:port`, with TLS after `https://`: to whom these certificates (PEM) vouch for, or gRPC's own."""
    address = endpoint.removeprefix("https://")
    if address == endpoint:
        return grpc.insecure_channel(address, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(trusted.encode() or None)
    return grpc.secure_channel(address, credentials, options=_OPTIONS)


class Connection:
    """Calls with one token, or with a ticket until it was changed for one. Each is repeated until it is answered, however long the server is away."""

    def __init__(self, endpoint: str, token: str, on_fenced: Callable[[], None] = exit_fenced) -> None:
        self._endpoint = endpoint
        self._channel = open_channel(endpoint, os.environ.get("TRELLIS_WORKER_CA", ""))
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._nonce = secrets.token_hex(32)
        self._on_fenced = on_fenced
        self._closing = threading.Event()

    def _use(self, token: str) -> None:
        """Call with this token from now on; with an empty one as before."""
        if token:
            self._metadata = (("authorization", f"Bearer {token}"),)

    def close(self) -> None:
        """Close the connection."""
        self._closing.set()
        self._channel.close()

    def _call(self, method: Callable[..., _Response], request: Any, traceparent: str = "") -> _Response:
        traced = ((TRACEPARENT, traceparent),) if traceparent else ()
        for number, pause in enumerate(pauses()):
            try:
                return method(request, metadata=(*self._metadata, *traced), timeout=_CALL_SECONDS)
            except grpc.RpcError as error:
                self._judge(error, number)
            except ValueError:  # grpc's answer to a call on a closed channel
                if not self._closing.is_set():
                    raise
            if self._closing.wait(pause):
                raise FencedError("The connection was closed.")
        raise AssertionError("pauses have no end")

    def _judge(self, error: grpc.RpcError, number: int = 0) -> None:
        """Return if the call may be repeated."""
        code, details = error.code(), error.details()
        if code in _FENCED:
            self._on_fenced()
            raise FencedError(details)
        if code in _REFUSED:
            raise RefusedError(details)
        level = logging.WARNING if number == _SAID_AFTER else logging.DEBUG
        _log.log(level, "The server at %s does not answer (%s: %s); trying again.", self._endpoint, code, details)


class Server(Connection):
    """The server as an attempt sees it."""

    def __init__(self, endpoint: str, token: str, on_fenced: Callable[[], None] = exit_fenced) -> None:
        super().__init__(endpoint, token, on_fenced)
        self._stub = WorkerServiceStub(self._channel)
        self.traceparent = ""
        """Of the attempt's span, for the calls that end it; reports are no part of the trace."""

    def start(self, code_version: str) -> worker_pb2.StartAttemptResponse:
        """Get the attempt's work, and for a ticket its token."""
        request = worker_pb2.StartAttemptRequest(
            code_version=code_version, hostname=socket.gethostname(), pid=os.getpid(), nonce=self._nonce
        )
        answer = self._call(self._stub.StartAttempt, request)
        self._use(answer.token)
        return answer

    def report(self, request: worker_pb2.ReportAttemptRequest) -> worker_pb2.ReportAttemptResponse:
        """Send one report. Raises RefusedError."""
        return self._call(self._stub.ReportAttempt, request)

    def complete(self, request: worker_pb2.CompleteAttemptRequest) -> worker_pb2.CompleteAttemptResponse:
        """Say that the adapter is there. Raises RefusedError when the server finds it wrong."""
        return self._call(self._stub.CompleteAttempt, request, self.traceparent)

    def fail(self, error: Status, cause: Cause, usage: worker_pb2.AttemptUsage | None = None) -> None:
        """Say that the attempt has ended without an adapter, and why."""
        request = worker_pb2.FailAttemptRequest(error=error, cause=cause, usage=usage)
        self._call(self._stub.FailAttempt, request, self.traceparent)


def pauses() -> Iterator[float]:
    """Seconds between the tries of a call."""
    for number in itertools.count():
        yield min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(number, 10))
