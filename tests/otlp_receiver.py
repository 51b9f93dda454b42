"""A collector of traces: OTLP's service over a real socket, which keeps what it is sent."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Status

SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Found:
    """A span as it came over the wire."""

    name: str
    service: str
    trace: str
    id: str
    parent: str
    links: tuple[str, ...]
    """`trace-span` of each."""
    values: dict[str, Any]
    events: tuple[tuple[str, dict[str, Any]], ...]
    start: int
    end: int
    failed: bool

    @property
    def place(self) -> str:
        return f"{self.trace}-{self.id}"


class OtlpReceiver(TraceServiceServicer):
    """All spans so far."""

    def __init__(self) -> None:
        self.spans: list[Found] = []
        self.address = ""
        self._changed = threading.Condition()

    def Export(self, request: ExportTraceServiceRequest, _context: Any) -> ExportTraceServiceResponse:
        with self._changed:
            self.spans += _spans_of(request)
            self._changed.notify_all()
        return ExportTraceServiceResponse()

    def until(self, *names: str) -> dict[str, Found]:
        """Wait until each of these has ended; the first of each name."""
        with self._changed:
            there = self._changed.wait_for(lambda: {*names} <= {span.name for span in self.spans}, SECONDS)
        assert there, f"{sorted({*names} - {span.name for span in self.spans})} never came, but {self.names}"
        return {name: next(span for span in self.spans if span.name == name) for name in names}

    @property
    def names(self) -> list[str]:
        return sorted(span.name for span in self.spans)

    def words(self) -> str:
        """All that was told of all spans."""
        return repr(self.spans)


@contextmanager
def receiving() -> Iterator[OtlpReceiver]:
    receiver = OtlpReceiver()
    server = grpc.server(ThreadPoolExecutor(4), options=(("grpc.so_reuseport", 0),))
    add_TraceServiceServicer_to_server(receiver, server)
    receiver.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()


def _spans_of(request: ExportTraceServiceRequest) -> Iterator[Found]:
    for resource in request.resource_spans:
        service = _values(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Found(
                    name=span.name,
                    service=str(service),
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    links=tuple(f"{link.trace_id.hex()}-{link.span_id.hex()}" for link in span.links),
                    values=_values(span.attributes),
                    events=tuple((event.name, _values(event.attributes)) for event in span.events),
                    start=span.start_time_unix_nano,
                    end=span.end_time_unix_nano,
                    failed=span.status.code == Status.STATUS_CODE_ERROR,
                )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value") or "string_value") for each in attributes}
