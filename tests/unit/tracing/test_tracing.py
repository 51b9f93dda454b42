"""Traces: off unless they are wanted, and never in anybody's way."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from trellis import tracing
from trellis.client._tracing import traced
from trellis.errors import NotFound
from trellis.server.logging import _add_trace
from trellis.tracing import NOTHING, ROOT, TracingError, begin, begun, is_wanted, passed_on
from trellis.tracing.otel import OtelTracer

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    found = InMemorySpanExporter()
    tracing.use(OtelTracer(SimpleSpanProcessor(found), "test", {"trellis.trainer": "t1"}))
    yield found
    tracing.use(None)


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({ENDPOINT: " "}, False),
        ({ENDPOINT: "http://collector:4317"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4317"}, True),
        ({ENDPOINT: "http://collector:4317", "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({ENDPOINT: "http://collector:4317", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({ENDPOINT: "http://collector:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, True),
    ],
)
def test_a_collector_must_be_named(environment: dict[str, str], wanted: bool) -> None:
    assert is_wanted(environment) is wanted


def test_another_protocol_is_refused_with_what_to_do() -> None:
    with pytest.raises(TracingError, match="4317"):
        is_wanted({ENDPOINT: "http://collector:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"})


def test_jobs_are_told_where_to_and_no_secret() -> None:
    environment = {
        ENDPOINT: "http://collector:4317",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.1",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret",
        "OTEL_EXPORTER_OTLP_CERTIFICATE": "/etc/ca.pem",
        "OTEL_RESOURCE_ATTRIBUTES": "k8s.pod.name=server-1",
        "OTEL_SERVICE_NAME": "server",
        "TRELLIS_SECRET_FILE": "x",
    }
    assert passed_on(environment) == {
        ENDPOINT: "http://collector:4317",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.1",
    }


def test_nothing_is_done_when_it_is_off() -> None:
    assert begin("x", links=("00-1",), values={"a": 1}) is NOTHING
    with begun("x") as span:
        assert span is NOTHING
        assert tracing.current_traceparent() == tracing.current_trace_id() == ""


def test_spans_are_under_the_current_one_a_named_one_or_none(exported: InMemorySpanExporter) -> None:
    with begun("outer") as outer:
        begin("inner").end()
        begin("root", parent=ROOT, links=("", "nonsense", outer.traceparent)).end()
        assert tracing.current_trace_id() == outer.trace_id
    begin("named", parent=outer.traceparent, start=NOW).end(NOW + timedelta(seconds=2))
    begin("from nonsense", parent="nonsense").end()
    found = {span.name: span for span in exported.get_finished_spans()}
    for name in ("inner", "named"):
        assert found[name].parent.span_id == found["outer"].context.span_id
        assert found[name].context.trace_id == found["outer"].context.trace_id
    assert found["root"].parent is None
    assert [link.context.span_id for link in found["root"].links] == [found["outer"].context.span_id]
    assert found["from nonsense"].parent is None
    assert found["named"].end_time - found["named"].start_time == 2_000_000_000
    assert found["named"].start_time == 1767323045678901000
    assert {"service.name", "service.version", "service.instance.id", "trellis.trainer"} <= {
        *found["named"].resource.attributes
    }


def test_an_exception_leaves_its_name_and_not_its_words(exported: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="hush"), begun("x"):
        raise ValueError("hush")
    (span,) = exported.get_finished_spans()
    assert span.attributes == {"error.type": "ValueError"}
    assert "hush" not in span.to_json()


def test_an_end_counts_once(exported: InMemorySpanExporter, caplog: pytest.LogCaptureFixture) -> None:
    span = begin("x")
    span.end(NOW + timedelta(days=9999))
    span.end()
    span.set("late", 1)
    span.fail("late")
    assert len(exported.get_finished_spans()) == 1


@pytest.mark.parametrize("sampled", [True, False])
def test_a_linked_trace_is_sampled_as_what_it_is_linked_to(sampled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.0" if sampled else "1.0")
    found = InMemorySpanExporter()
    tracing.use(OtelTracer(SimpleSpanProcessor(found), "test", {}))
    link = f"00-{'a' * 32}-{'b' * 16}-{'01' if sampled else '00'}"
    linked = begin("linked", parent=ROOT, links=(link,))
    begin("below", parent=linked.traceparent).end()
    linked.end()
    tracing.use(None)
    assert [span.name for span in found.get_finished_spans()] == (["below", "linked"] if sampled else [])


class _Stuck(SpanExporter):
    """A collector that never answers."""

    def __init__(self) -> None:
        self.asked, self.over = threading.Event(), threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked.set()
        self.over.wait()
        return SpanExportResult.FAILURE


def test_a_stuck_collector_holds_up_neither_work_nor_the_end() -> None:
    stuck = _Stuck()
    processor = BatchSpanProcessor(stuck, max_queue_size=64, max_export_batch_size=8, schedule_delay_millis=1)
    tracing.use(OtelTracer(processor, "test", {}))
    for number in range(2000):
        begin("x", values={"number": number}).end()
    assert stuck.asked.wait(10)
    ended = threading.Event()
    threading.Thread(target=lambda: (tracing.stop(0.05), ended.set()), daemon=True).start()
    assert ended.wait(10), "the process could not end"
    stuck.over.set()


def test_a_collector_that_takes_connections_and_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hole:
        monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{hole.getsockname()[1]}")
        tracing.start("test")
        assert begin("x") is not NOTHING
        begin("x").end()
        before = time.monotonic()
        tracing.stop(0.1)
        assert time.monotonic() - before < 5  # the exporter alone would have waited for 10


def test_settings_that_are_of_no_use_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT, "https://collector:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    with pytest.raises(TracingError, match="soon"):
        tracing.start("test")


def test_a_line_of_the_log_says_its_trace(exported: InMemorySpanExporter) -> None:
    with begun("x") as span:
        assert _add_trace(None, "info", {"event": "y"}) == {"event": "y", "trace_id": span.trace_id}
    assert _add_trace(None, "info", {"event": "y"}) == {"event": "y"}


def test_the_sdk_needs_no_opentelemetry_and_brings_none() -> None:
    program = (
        "import sys, trellis; trellis.Client('localhost:1', api_key='x').close(); print('opentelemetry' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"


def test_the_sdk_joins_the_applications_trace(exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = tracing.process._tracer.provider  # type: ignore[union-attr]
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    with begun("outer") as outer:
        with traced("/trellis.v1.X/Y") as headers:
            pass
        with pytest.raises(NotFound), traced("/trellis.v1.X/Z"):
            raise NotFound("RESOURCE_NOT_FOUND", "hush")
    found = {span.name: span for span in exported.get_finished_spans()}
    one = found["trellis.v1.X/Y"]
    assert one.context.trace_id == found["outer"].context.trace_id == int(outer.trace_id, 16)
    assert dict(headers)["traceparent"].split("-")[2] == trace.format_span_id(one.context.span_id)
    assert found["trellis.v1.X/Z"].attributes["error.type"] == "NOT_FOUND"
    assert "hush" not in found["trellis.v1.X/Z"].to_json()


def test_an_application_without_a_provider_sends_nothing() -> None:
    with traced("/trellis.v1.X/Y") as headers:
        assert headers == ()
