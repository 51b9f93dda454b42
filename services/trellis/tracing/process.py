"""The tracing of this process: off until it is started."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from typing import Final

from trellis.tracing.settings import TracingError, is_wanted
from trellis.tracing.span import NOTHING, Kind, Span, Tracer, Value

_STOP_SECONDS: Final = 2.0
_NONE: Final[Mapping[str, Value]] = {}
_log = logging.getLogger(__name__)
_tracer: Tracer | None = None


def start(service: str, values: Mapping[str, str] | None = None) -> None:
    """Trace from now on, if the environment names a collector; `values` are attributes of the process.

    Raises TracingError for settings that can't be followed.
    """
    if not is_wanted(os.environ):
        return
    try:
        from trellis.tracing.otel import open_tracer  # noqa: PLC0415  an optional extra
    except ImportError as error:
        message = f"A collector of traces is named, but OpenTelemetry can't be imported ({error})"
        raise TracingError(
            f"{message}. Install opentelemetry-sdk and opentelemetry-exporter-otlp-proto-grpc."
        ) from None
    use(open_tracer(service, values or {}))
    _log.info("Traces of %s are exported.", service)


def use(tracer: Tracer | None) -> None:
    """Trace with this from now on; None for nothing."""
    global _tracer  # noqa: PLW0603  one a process, as OpenTelemetry has it
    _tracer = tracer


def stop(seconds: float = _STOP_SECONDS) -> None:
    """Export what has ended, in so many seconds at the most, and trace no more."""
    tracer = _tracer
    use(None)
    if tracer is not None:
        tracer.close(seconds)


def begin(
    name: str,
    kind: Kind = Kind.INTERNAL,
    *,
    parent: str | None = None,
    links: tuple[str, ...] = (),
    values: Mapping[str, Value] = _NONE,
    start: datetime | None = None,
) -> Span:
    """A span that goes on until it is ended.

    `parent` is a traceparent, ROOT, or None for the current span; links are traceparents of spans that led to it, of which
    empty ones are left out; what is no traceparent counts as none.
    """
    return NOTHING if _tracer is None else _tracer.begin(name, kind, parent, links, values, start)


@contextmanager
def begun(name: str, kind: Kind = Kind.INTERNAL, **more: object) -> Iterator[Span]:
    """The same as the current span of what is done within; an exception that passes through makes it a failed one."""
    span = begin(name, kind, **more)  # type: ignore[arg-type]  # what begin takes
    try:
        with within(span):
            yield span
    except BaseException as error:
        span.fail(type(error).__name__)
        raise
    finally:
        span.end()


def within(span: Span) -> AbstractContextManager[None]:
    """Makes the span the current one."""
    return nullcontext() if _tracer is None else _tracer.within(span)


def current_traceparent() -> str:
    """Of the current span; empty when nothing is traced."""
    return "" if _tracer is None else _tracer.current().traceparent


def current_trace_id() -> str:
    """Of the current span; empty when nothing is traced."""
    return "" if _tracer is None else _tracer.current().trace_id
