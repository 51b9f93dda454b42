"""The span of a call that is answered, by OpenTelemetry's conventions for RPC (1.45, with rpc.method as the whole name)."""

from collections.abc import Mapping
from typing import Final

import grpc

from trellis.names import tenant_of
from trellis.server.rpc.calls import Call
from trellis.tracing import NOTHING, TRACEPARENT, Kind, Span, begin

_BROKEN: Final = frozenset({
    grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS,
})  # fmt: skip
"""The server's own faults; of all else the caller is the cause, and the span is none of an error."""


def begin_call(call: Call, metadata: Mapping[str, str], *, is_process: bool) -> Span:
    """The span of a call, in its caller's trace if that sent its place there.

    Jobs' processes report every few seconds for hours: theirs are only spans if they say whose.
    """
    parent = metadata.get(TRACEPARENT, "")
    if is_process and not parent:
        return NOTHING
    values = {
        "rpc.system.name": "grpc",
        "rpc.method": call.method.removeprefix("/"),
        "trellis.request_id": call.request_id,
    }
    return begin(call.method.removeprefix("/"), Kind.SERVER, parent=parent, values=values)


def end_call(span: Span, call: Call, status: grpc.StatusCode, why: Mapping[str, str]) -> None:
    """How it ended, and whom it was about."""
    span.set("rpc.response.status_code", status.name)
    tenant = tenant_of(call.resource) or (call.caller.tenant if call.caller else None)
    if tenant:
        span.set("trellis.tenant", tenant)
    if reason := why.get("reason"):
        span.set("trellis.reason", reason)
    if status in _BROKEN:
        span.fail(status.name)
    span.end()
