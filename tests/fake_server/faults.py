"""What goes wrong, on demand."""

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import grpc
from grpc_status import rpc_status

from trellis.errors import TrellisError, Unauthenticated
from trellis.server.rpc.statuses import status_of


def abort(context: grpc.ServicerContext, error: TrellisError) -> None:
    """End a call as the real server does."""
    context.abort_with_status(rpc_status.to_status(status_of(error, "req-1")))


class Faults(grpc.ServerInterceptor):
    """Answers the next calls of a method with errors, counts all calls, and checks the key."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.calls: list[str] = []
        self.metadata: list[dict[str, str]] = []
        self._planned: dict[str, list[TrellisError | grpc.StatusCode]] = defaultdict(list)
        self._lock = threading.Lock()

    def plan(self, method: str, *errors: TrellisError | grpc.StatusCode) -> None:
        """Answer the next calls of this method so."""
        self._planned[method] += errors

    def count(self, method: str) -> int:
        """How many calls of this method came."""
        return self.calls.count(method)

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        metadata = {str(key): str(value) for key, value in handler_call_details.invocation_metadata}
        method = handler_call_details.method.rpartition("/")[2]
        with self._lock:
            self.calls.append(method)
            self.metadata.append(metadata)
            planned = self._planned[method]
            fault: TrellisError | grpc.StatusCode | None = planned.pop(0) if planned else None
        if metadata.get("authorization") != f"Bearer {self.key}":
            fault = Unauthenticated("API_KEY_INVALID", "The API key is not known.")
        return _failing(handler, fault) if fault else handler


def _failing(handler: Any, fault: TrellisError | grpc.StatusCode) -> Any:
    def fail(_request: object, context: grpc.ServicerContext) -> None:
        if isinstance(fault, TrellisError):
            abort(context, fault)
        else:
            context.abort(fault, "a fault")

    codec = {
        "request_deserializer": handler.request_deserializer,
        "response_serializer": handler.response_serializer,
    }
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler(fail, **codec)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(fail, **codec)
    return grpc.unary_unary_rpc_method_handler(fail, **codec)
