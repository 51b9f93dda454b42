"""Spans of OpenTelemetry's SDK, exported over OTLP and gRPC beside the process's work."""

import importlib.metadata
import os
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Final

from opentelemetry import context as contexts, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from trellis.tracing.settings import TracingError
from trellis.tracing.span import NOTHING, TRACEPARENT, Kind, Span, Value

_KINDS: Final = {Kind.INTERNAL: SpanKind.INTERNAL, Kind.SERVER: SpanKind.SERVER, Kind.CLIENT: SpanKind.CLIENT}
_W3C: Final = TraceContextTextMapPropagator()


def open_tracer(service: str, values: Mapping[str, str]) -> "OtelTracer":
    """One that exports as the standard variables say. Raises TracingError."""
    try:
        return OtelTracer(BatchSpanProcessor(OTLPSpanExporter()), service, values)
    except (OSError, ValueError) as error:
        raise TracingError(f"Traces can't be exported as the variables OTEL_… say: {error}") from None


class OtelTracer:
    """`Tracer` over a provider of its own, which is the process's, so that other instrumentation joins its traces."""

    def __init__(self, processor: SpanProcessor, service: str, values: Mapping[str, str]) -> None:
        provider = TracerProvider(resource=_resource(service, values), shutdown_on_exit=False)
        provider.sampler = AsLinked(provider.sampler)
        provider.add_span_processor(processor)
        self._provider = provider
        self._tracer = provider.get_tracer("trellis", importlib.metadata.version("trellis"))

    @property
    def provider(self) -> TracerProvider:
        """Where the spans come from."""
        return self._provider

    def begin(
        self,
        name: str,
        kind: Kind,
        parent: str | None,
        links: tuple[str, ...],
        values: Mapping[str, Value],
        start: datetime | None,
    ) -> Span:
        """See trellis.tracing.begin."""
        return OtelSpan(
            self._tracer.start_span(
                name,
                # An empty context, not None, which would stand for the current one.
                context=None if parent is None else _context_of(parent),
                kind=_KINDS[kind],
                attributes=dict(values),
                links=[Link(found) for text in links if (found := _place_of(text)).is_valid],
                start_time=None if start is None else _nanoseconds(start),
                record_exception=False,
                set_status_on_exception=False,
            )
        )

    def current(self) -> Span:
        """What this task or thread is in the middle of."""
        span = trace.get_current_span()
        return OtelSpan(span) if span.get_span_context().is_valid else NOTHING

    @contextmanager
    def within(self, span: Span) -> Iterator[None]:
        """Makes the span the current one."""
        if not isinstance(span, OtelSpan):
            yield
            return
        token = contexts.attach(trace.set_span_in_context(span.span))
        try:
            yield
        finally:
            contexts.detach(token)

    def close(self, seconds: float) -> None:
        """Export what has ended; a collector that does not answer holds nobody up for longer than that."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces-end", daemon=True)
        closing.start()
        closing.join(seconds)


class OtelSpan:
    """`Span` over one of OpenTelemetry's."""

    __slots__ = ("span",)

    def __init__(self, span: trace.Span) -> None:
        self.span = span

    @property
    def traceparent(self) -> str:
        """Its place in its trace."""
        return traceparent_of(self.span.get_span_context())

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""
        return trace.format_trace_id(self.span.get_span_context().trace_id)

    def set(self, name: str, value: Value) -> None:
        """Say something of it."""
        self.span.set_attribute(name, value)

    def event(self, name: str, values: Mapping[str, Value]) -> None:
        """Something happened in it just now."""
        self.span.add_event(name, dict(values))

    def fail(self, kind: str) -> None:
        """It went wrong. No message is kept: one may quote what a caller sent."""
        self.span.set_attribute("error.type", kind)
        self.span.set_status(Status(StatusCode.ERROR))

    def end(self, at: datetime | None = None) -> None:
        """It is over."""
        if self.span.is_recording():
            self.span.end(None if at is None else _nanoseconds(at))


class AsLinked(Sampler):
    """Of a trace that begins with links: as the first of them was sampled; all else as the other sampler says.

    So a job is traced from its submission to its end or not at all, although each attempt is a trace of its own.
    """

    def __init__(self, other: Sampler) -> None:
        self._other = other

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Ask the one or the other."""
        is_root = not trace.get_current_span(parent_context).get_span_context().is_valid
        chosen = self._other
        if links and is_root and isinstance(self._other, ParentBased):
            chosen = ALWAYS_ON if links[0].context.trace_flags.sampled else ALWAYS_OFF
        return chosen.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        """For people."""
        return f"AsLinked{{{self._other.get_description()}}}"


def traceparent_of(place: SpanContext) -> str:
    """W3C's form of a place."""
    ids = f"{trace.format_trace_id(place.trace_id)}-{trace.format_span_id(place.span_id)}"
    return f"00-{ids}-{place.trace_flags:02x}"


def _context_of(traceparent: str) -> Context:
    return _W3C.extract({TRACEPARENT: traceparent}, Context())


def _place_of(traceparent: str) -> SpanContext:
    return trace.get_current_span(_context_of(traceparent)).get_span_context()


def _nanoseconds(time: datetime) -> int:
    return int(time.timestamp() * 1_000_000) * 1000


def _resource(service: str, values: Mapping[str, str]) -> Resource:
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": service}
    return Resource.create({
        "service.namespace": "trellis",
        "service.version": importlib.metadata.version("trellis"),
        "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
        **named,
        **values,
    })  # fmt: skip
