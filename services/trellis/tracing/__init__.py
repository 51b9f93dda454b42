"""Traces, through OpenTelemetry where its standard variables name a collector; else nothing is done, and it costs nothing.

A process calls `start` once, and from then on `begin` gives spans that are exported beside its work. The SDK's client starts
nothing: it takes part in what the application has set up (`trellis.tracing.of_application`). A span's place in its trace
travels as W3C's `traceparent`, in metadata of gRPC, in a header of HTTP and in rows. No span holds a payload, a prompt or a key.
See docs/adr/0021-traces-are-linked.md.
"""

from trellis.tracing.process import begin, begun, current_trace_id, current_traceparent, start, stop, use, within
from trellis.tracing.settings import TracingError, is_wanted, passed_on
from trellis.tracing.span import NOTHING, ROOT, TRACEPARENT, Kind, Span, Value

__all__ = [
    "NOTHING",
    "ROOT",
    "TRACEPARENT",
    "Kind",
    "Span",
    "TracingError",
    "Value",
    "begin",
    "begun",
    "current_trace_id",
    "current_traceparent",
    "is_wanted",
    "passed_on",
    "start",
    "stop",
    "use",
    "within",
]
