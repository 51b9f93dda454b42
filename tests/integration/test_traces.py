"""One job and one call of a model, from the application's span to the trainer's and the engine's, over real sockets."""

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
import uvicorn
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from tests.otlp_receiver import Found, OtlpReceiver, receiving
from tests.server_process import SECONDS, Server
from tests.workshop import make_workshop

import trellis
from trellis import tracing
from trellis.local.ports import free_ports
from trellis.server.app.tokens import trainer_ticket
from trellis.server.clusters.serve import EngineSettings, ServeCluster
from trellis.server.secret import derived, read_or_make_secret
from trellis.serving.loop import EngineLoop
from trellis.serving.pace import Pace
from trellis.serving.responses import FramesResponse
from trellis.serving.service import EngineService
from trellis.serving.spans import RequestSpans
from trellis.tracing.otel import OtelTracer
from trellis.v1.engine_pb2 import StreamTokensRequest
from trellis.v1.inference_pb2 import GenerateRequest, SamplingParams

PROMPT = "which-secret-is-in-this-prompt"
THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1"}


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with receiving() as found:
        yield found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path, *free_ports(2))
    yield found
    found.end()


@pytest.fixture
def application(receiver: OtlpReceiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[trace.Tracer]:
    """An application that has set up OpenTelemetry for itself."""
    provider = TracerProvider(resource=Resource.create({"service.name": "application"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(receiver.address), schedule_delay_millis=50))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield provider.get_tracer("application")
    provider.shutdown()


def test_a_job_from_the_application_to_the_adapter(
    server: Server, receiver: OtlpReceiver, application: trace.Tracer, tmp_path: Path
) -> None:
    exports = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.address, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    server.start(**exports, OTEL_EXPORTER_OTLP_HEADERS="x-collector-key=hush")
    server.until_ready()
    lines = [{"messages": [_turn("user", f"{PROMPT} {n}"), _turn("assistant", "pong")]} for n in range(20)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with server.client() as admin:
        admin.tenants.create("acme")
        secret = admin.api_keys.create("tenants/acme").secret
        with server.client(secret, tenant="acme") as client:
            client.datasets.upload(tmp_path / "data.jsonl", dataset="pings")
            with application.start_as_current_span("a deed of the application"):
                job = client.jobs.create(
                    "pings", supervised=trellis.TrainingSettings(epochs=1, batch_size=8, learning_rate=0.01)
                )
            receiver.until("queue.wait")
            (trainer,) = admin.trainers.list()
            process = _train(server, trainer.name.rpartition("/")[2], exports)
            try:
                done = client.jobs.wait(job.name, timeout=SECONDS)
                assert done.state == "SUCCEEDED", done
                _check_job(receiver, done.name)
            finally:
                process.kill()
                process.wait()
    words = receiver.words()
    for never in (PROMPT, "pong", secret, server.key, "hush", "authorization"):
        assert never not in words, never
    assert _traced_lines(server) >= {receiver.until("a deed of the application").popitem()[1].trace}


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _train(server: Server, uid: str, exports: dict[str, str]) -> subprocess.Popen[bytes]:
    """What the server would have had Ray start."""
    secret = derived(read_or_make_secret(server.folder / "server.secret"), "attempts").encode()
    environment = {
        **os.environ,
        **THREADS,
        **exports,
        "TRELLIS_WORKER_ENDPOINT": f"127.0.0.1:{server.grpc_port}",
        "TRELLIS_TRAINER_TICKET": trainer_ticket(secret, uid),
    }
    with (server.folder / "trainer.log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-m", "trellis_jobs.shared.main"], env=environment, stderr=log)


def _check_job(receiver: OtlpReceiver, name: str) -> None:
    create = "trellis.v1.TuningJobService/CreateTuningJob"
    found = receiver.until(
        *("a deed of the application", "queue.wait", "job.start", "job.attempt", "job.read", "job.train", "job.save"),
        *("job.upload", "job.evaluate", "job.check", "trellis.v1.WorkerService/CompleteAttempt"),
    )
    deed, waited, attempt = found["a deed of the application"], found["queue.wait"], found["job.attempt"]
    called = {span.service: span for span in receiver.spans if span.name == create}
    assert called["application"].parent == deed.id
    assert called["trellis-server"].parent == called["application"].id
    assert called["trellis-server"].trace == deed.trace
    assert called["trellis-server"].values["rpc.response.status_code"] == "OK"
    assert called["trellis-server"].values["trellis.tenant"] == "acme"

    # The attempt's trace is its own, and leads to the call that submitted the job.
    assert waited.trace != deed.trace
    assert not waited.parent
    assert waited.links == (called["trellis-server"].place,)
    assert [span.trace for span in (found["job.start"], attempt)] == [waited.trace] * 2
    assert [span.parent for span in (found["job.start"], attempt)] == [waited.id] * 2
    assert waited.start <= waited.end <= found["job.start"].end <= attempt.end
    assert {attempt.values[f"trellis.{key}"] for key in ("tenant", "job", "attempt")} == {"acme", name, 1}
    assert (waited.service, attempt.service) == ("trellis-server", "trellis-trainer")
    for part in ("job.read", "job.train", "job.save", "job.upload", "job.evaluate", "job.check"):
        assert found[part].parent == attempt.id, part
        assert attempt.start <= found[part].start <= found[part].end <= attempt.end, part
    steps = [values["trellis.step"] for event, values in found["job.train"].events if event == "step"]
    assert steps == list(range(1, len(steps) + 1))
    assert found["job.train"].values["trellis.steps"] == len(steps)
    assert found["trellis.v1.WorkerService/CompleteAttempt"].parent == attempt.id
    assert "trellis.v1.WorkerService/ReportAttempt" not in receiver.names
    assert "trellis.v1.TrainerService/ClaimAttempts" not in receiver.names


def _traced_lines(server: Server) -> set[str]:
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    return {line["trace_id"] for line in lines if line["event"] == "rpc" and "trace_id" in line}


@pytest_asyncio.fixture
async def traced(receiver: OtlpReceiver) -> AsyncIterator[OtelTracer]:
    """This process, which is server and engine, exports."""
    exporter = BatchSpanProcessor(OTLPSpanExporter(receiver.address), schedule_delay_millis=50)
    tracer = OtelTracer(exporter, "both", {})
    tracing.use(tracer)
    yield tracer
    tracing.stop()


async def test_a_call_of_a_model_is_one_trace(receiver: OtlpReceiver, traced: OtelTracer, tmp_path: Path) -> None:
    workshop = make_workshop(tmp_path)
    with ThreadPoolExecutor(1) as threads:
        loop = EngineLoop(workshop.engine(executor=threads))
        loop.start()
        async with Replica(EngineService(loop, workshop.tokenizer)) as port:
            cluster = ServeCluster("http://127.0.0.1:9", EngineSettings("", "hush", http_port=port))
            sampling = SamplingParams(temperature=0)
            wanted = StreamTokensRequest(
                tenant_id="acme", generate=GenerateRequest(prompt=PROMPT, sampling=sampling, max_tokens=4)
            )
            with tracing.begun("the rpc"):
                pieces = [piece async for piece in cluster.stream_tokens("tiny", wanted)]
            wanted.generate.max_tokens = 10_000
            with pytest.raises(Exception, match="do not fit"):
                [piece async for piece in cluster.stream_tokens("tiny", wanted)]
            await cluster.close()
        loop.stop()
    names = ("the rpc", "engine.call", "engine.generate", "engine.queue", "engine.prefill", "engine.decode")
    found = await asyncio.to_thread(receiver.until, *names)
    assert len({span.trace for span in found.values()}) == 1
    assert [found[name].parent for name in names[1:3]] == [found[name].id for name in names[:2]]
    assert {found[name].parent for name in names[3:]} == {found["engine.generate"].id}
    parts = [found[name] for name in names[3:]]
    assert all(before.end == after.start for before, after in itertools.pairwise(parts))
    assert parts[-1].end == found["engine.generate"].end
    values = found["engine.generate"].values
    tokens = sum(len(piece.generate.token_ids) for piece in pieces)
    assert (values["gen_ai.usage.output_tokens"], values["trellis.tenant"]) == (tokens, "acme")
    assert values["trellis.outcome"] in {"STOP", "LENGTH"}
    refused = await asyncio.to_thread(_failed, receiver)
    assert {span.values["error.type"] for span in refused} == {"CONTEXT_EXCEEDED"}
    assert len({span.trace for span in refused}) == 1
    assert PROMPT not in receiver.words()
    assert "hush" not in receiver.words()


def _failed(receiver: OtlpReceiver) -> list[Found]:
    tracing.stop()
    return [span for span in receiver.spans if span.failed]


class Replica:
    """A replica's HTTP without Ray: the header's way into the spans is the one of trellis.serving.app."""

    def __init__(self, service: EngineService) -> None:
        self._service = service
        app = Starlette(routes=[Route("/trellis-tiny/stream-tokens", self._answer, methods=["POST"])])
        (self._port,) = free_ports(1)
        self._server = uvicorn.Server(uvicorn.Config(app, port=self._port, log_config=None, lifespan="off"))

    async def _answer(self, request: HttpRequest) -> Response:
        spans = RequestSpans(request.headers.get(tracing.TRACEPARENT, ""), "baseModels/tiny")
        return FramesResponse(self._service.frames(await request.body(), spans), Pace(100))

    async def __aenter__(self) -> int:
        self._serving = asyncio.create_task(self._server.serve())
        async with httpx.AsyncClient() as client, asyncio.timeout(SECONDS):
            while True:
                try:
                    await client.get(f"http://127.0.0.1:{self._port}/")
                    return self._port
                except httpx.TransportError:
                    await asyncio.sleep(0.05)

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        await self._serving
