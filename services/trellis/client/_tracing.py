"""Calls in the traces of an application that uses OpenTelemetry; the SDK itself needs none of it."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trellis.errors import TrellisError

Headers = tuple[tuple[str, str], ...]


@contextmanager
def traced(method: str) -> Iterator[Headers]:
    """A span around one call, and the metadata by which the server joins the trace.

    An application that has not imported OpenTelemetry has not set it up either, and nothing is done for it.
    """
    trace: Any = sys.modules.get("opentelemetry.trace")
    if trace is None:
        yield ()
        return
    name = method.removeprefix("/")
    values = {"rpc.system.name": "grpc", "rpc.method": name}
    # Not made the current one: there is nothing below it, and streams are gone through in other tasks.
    span = trace.get_tracer("trellis.client").start_span(name, kind=trace.SpanKind.CLIENT, attributes=values)
    try:
        yield _headers(trace, span)
    except TrellisError as error:
        span.set_attribute("rpc.response.status_code", error.STATUS)
        span.set_attribute("error.type", error.STATUS)
        span.set_status(trace.StatusCode.ERROR)
        raise
    finally:
        span.end()


def _headers(trace: Any, span: Any) -> Headers:
    """W3C's alone: what else the application hands on, such as baggage, is not the platform's to see."""
    w3c = importlib.import_module("opentelemetry.trace.propagation.tracecontext")
    carrier: dict[str, str] = {}
    w3c.TraceContextTextMapPropagator().inject(carrier, trace.set_span_in_context(span))
    return tuple(carrier.items())
