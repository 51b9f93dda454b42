from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from trellis.engine_options import EngineOptions
from trellis.engine_wire import ADAPTER_HEADER, MESSAGE, SECRET_HEADER, error_frame, frame
from trellis.errors import InternalError, Reason, ResourceExhausted, Unavailable
from trellis.server.app.hosts import EngineHost, HostState
from trellis.server.clusters.serve import EngineSettings, ServeCluster
from trellis.server.clusters.serve_applications import DashboardApplications
from trellis.server.domain.base_model import BaseModel
from trellis.v1.engine_pb2 import StreamTokensRequest, StreamTokensResponse
from trellis.v1.inference_pb2 import FINISH_REASON_STOP, GenerateResponse

BASE = BaseModel(
    "tiny.v1", "", "/models/tiny", "sha256:1", "Llama", 128, 1, 1, "t0", True, True, datetime(2026, 1, 1, tzinfo=UTC)
)
SETTINGS = EngineSettings("/objects", "s3cret")
OTHER = {"name": "other", "route_prefix": "/other", "import_path": "a:b"}


class FakeServe:
    """Ray's dashboard and Serve's HTTP proxy, in memory; keeps what is put and says RUNNING."""

    def __init__(self) -> None:
        self.applications: dict[str, dict[str, Any]] = {}
        self.puts: list[dict[str, Any]] = []
        self.answer = httpx.Response(404, text="Path not found.")
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/api/serve/applications/":
            self.asked.append(request)
            return self.answer
        if request.method == "PUT":
            self.puts.append(json.loads(request.content))
            self.applications = {c["name"]: self.running(c) for c in self.puts[-1]["applications"]}
            return httpx.Response(200)
        return httpx.Response(200, json={"applications": self.applications})

    @staticmethod
    def running(config: dict[str, Any]) -> dict[str, Any]:
        return {"status": "RUNNING", "message": "", "deployed_app_config": config, "deployments": {}}


@pytest.fixture
def serve() -> FakeServe:
    return FakeServe()


@pytest.fixture
def cluster(serve: FakeServe) -> ServeCluster:
    transport = httpx.MockTransport(serve)
    host = ServeCluster("", SETTINGS, applications=DashboardApplications("http://dashboard", transport=transport))
    host._engines = httpx.AsyncClient(base_url="http://serve", transport=transport, headers=host._engines.headers)
    return host


def test_it_is_an_engine_host(cluster: ServeCluster) -> None:
    host: EngineHost = cluster
    assert host


async def test_ensure_puts_what_is_missing_and_keeps_others(cluster: ServeCluster, serve: FakeServe) -> None:
    serve.applications = {"other": serve.running(OTHER)}
    await cluster.ensure([BASE])
    (put,) = serve.puts
    assert put["http_options"] == {"host": "127.0.0.1", "port": 8001}
    assert [app["name"] for app in put["applications"]] == ["other", "trellis-tiny.v1"]
    await cluster.ensure([BASE])
    assert len(serve.puts) == 1
    await cluster.ensure([])
    assert [app["name"] for app in serve.puts[1]["applications"]] == ["other"]
    await cluster.ensure([])
    assert len(serve.puts) == 2


async def test_what_could_not_be_deployed_is_tried_again_after_a_while(cluster: ServeCluster, serve: FakeServe) -> None:
    clock = [0.0]
    cluster._seconds = lambda: clock[0]
    await cluster.ensure([BASE])
    serve.applications["trellis-tiny.v1"]["status"] = "DEPLOY_FAILED"
    for clock[0] in (0.0, 59.0):
        await cluster.ensure([BASE])
    assert len(serve.puts) == 1
    clock[0] = 60.0
    await cluster.ensure([BASE])
    assert serve.puts[1]["applications"] == []
    await cluster.ensure([BASE])
    assert [app["name"] for app in serve.puts[2]["applications"]] == ["trellis-tiny.v1"]


async def test_the_secret_itself_is_in_no_config(cluster: ServeCluster, serve: FakeServe) -> None:
    await cluster.ensure([BASE])
    assert SETTINGS.secret not in json.dumps(serve.puts)


async def test_states_say_why(cluster: ServeCluster, serve: FakeServe) -> None:
    serve.applications = {
        "other": serve.running(OTHER),
        "trellis-a": {"status": "DEPLOYING", "message": ""},
        "trellis-b": {"status": "DEPLOY_FAILED", "message": "Traceback:\n  line 1\nBaseModelError: no folder\n"},
        "trellis-c": {"status": "UNHEALTHY", "message": "", "deployments": {"engine": {"message": "It died."}}},
        "trellis-d": {"status": "DELETING", "message": ""},
    }
    assert await cluster.states() == {
        "a": (HostState.STARTING, ""),
        "b": (HostState.FAILED, "BaseModelError: no folder"),
        "c": (HostState.FAILED, "It died."),
        "d": (HostState.ABSENT, ""),
    }


def replicas(*states: str) -> dict[str, Any]:
    return {"engine": {"message": "It is updating.", "replicas": [{"state": state} for state in states]}}


async def test_an_engine_can_be_called_while_one_of_its_replicas_runs(cluster: ServeCluster, serve: FakeServe) -> None:
    serve.applications = {
        "trellis-a": {"status": "DEPLOYING", "deployments": replicas("RUNNING", "STARTING")},
        "trellis-b": {"status": "DEPLOYING", "deployments": replicas("STOPPING", "STARTING")},
        "trellis-c": {"status": "UNHEALTHY", "deployments": replicas("STARTING", "RUNNING")},
        "trellis-d": {"status": "DEPLOY_FAILED", "deployments": replicas("RUNNING")},
        "trellis-e": {"status": "DELETING", "deployments": replicas("RUNNING")},
    }
    assert {name: state for name, (state, _) in (await cluster.states()).items()} == {
        "a": HostState.RUNNING,
        "b": HostState.STARTING,
        "c": HostState.RUNNING,
        "d": HostState.RUNNING,
        "e": HostState.ABSENT,
    }


async def test_an_engine_can_be_called_while_its_application_is_built_anew(
    cluster: ServeCluster, serve: FakeServe
) -> None:
    building = {"status": "DEPLOYING", "deployments": {}}
    serve.applications = {"trellis-a": {"status": "RUNNING", "deployments": replicas("RUNNING")}, "trellis-b": building}
    await cluster.states()
    serve.applications["trellis-a"] = building
    for _ in range(2):
        states = await cluster.states()
        assert {name: state for name, (state, _) in states.items()} == {"a": HostState.RUNNING, "b": HostState.STARTING}
    serve.applications["trellis-a"] = {"status": "DEPLOYING", "deployments": replicas("STARTING")}
    assert (await cluster.states())["a"][0] is HostState.STARTING


async def test_settings_that_fail_do_not_take_away_the_replicas_of_the_old_ones(
    cluster: ServeCluster, serve: FakeServe
) -> None:
    clock = [0.0]
    cluster._seconds = lambda: clock[0]
    await cluster.ensure([BASE])
    serve.applications["trellis-tiny.v1"] |= {"status": "DEPLOY_FAILED", "deployments": replicas("RUNNING")}
    for clock[0] in (0.0, 600.0):
        await cluster.ensure([BASE])
    assert len(serve.puts) == 1


async def test_another_setting_is_another_deployment(cluster: ServeCluster, serve: FakeServe) -> None:
    await cluster.ensure([BASE])
    cluster._settings = replace(SETTINGS, options=EngineOptions(max_running=3))
    await cluster.ensure([BASE])
    assert [put["applications"][0]["args"]["options"]["max_running"] for put in serve.puts] == [32, 3]


async def test_serve_is_told_the_adapter(cluster: ServeCluster, serve: FakeServe) -> None:
    serve.answer = httpx.Response(200, content=piece("b", FINISH_REASON_STOP))
    await answers(cluster)
    async for _ in cluster.stream_tokens("tiny.v1", StreamTokensRequest(adapter_digest="ab" * 32)):
        pass
    assert [asked.headers.get(ADAPTER_HEADER) for asked in serve.asked] == [None, "ab" * 32]


async def answers(cluster: ServeCluster) -> list[str]:
    return [p.generate.text async for p in cluster.stream_tokens("tiny.v1", StreamTokensRequest(tenant_id="acme"))]


def piece(text: str, finish: Any = 0) -> bytes:
    response = StreamTokensResponse(generate=GenerateResponse(text=text, finish_reason=finish))
    return frame(MESSAGE, response.SerializeToString())


async def test_a_stream_is_read(cluster: ServeCluster, serve: FakeServe) -> None:
    serve.answer = httpx.Response(200, content=piece("a") + piece("b", FINISH_REASON_STOP))
    assert await answers(cluster) == ["a", "b"]
    (asked,) = serve.asked
    assert asked.url.path == "/trellis-tiny.v1/stream-tokens"
    assert asked.headers[SECRET_HEADER] == SETTINGS.secret
    assert StreamTokensRequest.FromString(asked.content).tenant_id == "acme"


async def test_the_engines_error_is_raised(cluster: ServeCluster, serve: FakeServe) -> None:
    busy = ResourceExhausted(Reason.ENGINE_BUSY, "Wait.", retry_after=1.5)
    serve.answer = httpx.Response(200, content=piece("a") + error_frame(busy))
    with pytest.raises(ResourceExhausted) as caught:
        await answers(cluster)
    assert (caught.value.reason, caught.value.retry_after) == (Reason.ENGINE_BUSY, 1.5)


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404, text="Path '/x' not found."),
        httpx.Response(503, text="backpressure"),
        httpx.Response(500, text="died"),
        httpx.Response(200, content=piece("a")),
        httpx.Response(200, content=b"nonsense"),
        httpx.Response(200, content=b""),
    ],
)
async def test_an_engine_that_is_not_there_is_unavailable(
    cluster: ServeCluster, serve: FakeServe, answer: httpx.Response
) -> None:
    serve.answer = answer
    with pytest.raises(Unavailable) as caught:
        await answers(cluster)
    assert caught.value.reason == Reason.ENGINE_UNAVAILABLE
    assert caught.value.retry_after


async def test_a_refused_secret_is_our_own_fault(cluster: ServeCluster, serve: FakeServe) -> None:
    serve.answer = httpx.Response(401)
    with pytest.raises(InternalError):
        await answers(cluster)


async def test_a_dashboard_that_does_not_answer_is_unavailable() -> None:
    cluster = ServeCluster("http://127.0.0.1:1", SETTINGS)
    with pytest.raises(Unavailable):
        await cluster.ensure([])
    await cluster.close()
