"""A request's spans at a replica, from the pieces of its answer."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from trellis import tracing
from trellis.engine import FinishReason, Output
from trellis.serving.spans import RequestSpans
from trellis.tracing.otel import OtelTracer

PLACE = f"00-{'a' * 32}-{'b' * 16}-01"


class Clock:
    def __init__(self) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


@pytest.fixture
def exported() -> Iterator[InMemorySpanExporter]:
    found = InMemorySpanExporter()
    tracing.use(OtelTracer(SimpleSpanProcessor(found), "test", {}))
    yield found
    tracing.use(None)


def lengths(exported: InMemorySpanExporter) -> dict[str, float]:
    return {span.name: (span.end_time - span.start_time) / 1e9 for span in exported.get_finished_spans()}


def test_the_parts_add_up(exported: InMemorySpanExporter) -> None:
    clock = Clock()
    spans = RequestSpans(PLACE, "baseModels/tiny", clock)
    spans.begin("acme")
    clock.advance(5)
    spans.see(Output("r", token_ids=(1,), queued_seconds=3.0, prompt_tokens=7, completion_tokens=1))
    clock.advance(2)
    done = Output("r", token_ids=(2,), queued_seconds=3.0, prompt_tokens=7, completion_tokens=2, is_last=True)
    spans.see(done)
    spans.end(FinishReason.LENGTH)
    assert lengths(exported) == {"engine.queue": 3, "engine.prefill": 2, "engine.decode": 2, "engine.generate": 7}
    whole = exported.get_finished_spans()[-1]
    assert whole.attributes is not None
    assert whole.attributes["gen_ai.usage.output_tokens"] == 2
    assert whole.status.is_unset


def test_who_never_left_the_queue_has_no_parts(exported: InMemorySpanExporter) -> None:
    clock = Clock()
    spans = RequestSpans(PLACE, "baseModels/tiny", clock)
    clock.advance(5)
    spans.end("ENGINE_BUSY")
    (whole,) = exported.get_finished_spans()
    assert whole.attributes is not None
    assert whole.attributes["error.type"] == "ENGINE_BUSY"


def test_who_leaves_has_not_failed(exported: InMemorySpanExporter) -> None:
    spans = RequestSpans(PLACE, "baseModels/tiny", Clock())
    spans.end("CANCELLED")
    assert exported.get_finished_spans()[0].status.is_unset


def test_a_call_without_a_trace_makes_none(exported: InMemorySpanExporter) -> None:
    spans = RequestSpans("", "baseModels/tiny", Clock())
    spans.see(Output("r", token_ids=(1,), queued_seconds=3.0))
    spans.end("STOP")
    assert exported.get_finished_spans() == ()
