from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import pytest_asyncio
from aiohttp import web

from trellis.engine_options import EngineOptions
from trellis.engine_wire import ADAPTER_HEADER, MESSAGE, SECRET_HEADER, error_frame, frame
from trellis.errors import InternalError, Reason, ResourceExhausted, TrellisError, Unavailable
from trellis.local.ports import free_ports
from trellis.server.app.hosts import HostState
from trellis.server.clusters.serve import EngineSettings, ServeCluster
from trellis.server.clusters.serve_applications import DashboardApplications
from trellis.server.domain.base_model import BaseModel
from trellis.v1.engine_pb2 import StreamTokensRequest, StreamTokensResponse
from trellis.v1.inference_pb2 import FINISH_REASON_STOP, GenerateRequest, GenerateResponse, TokenLogprob, Usage

BASE = BaseModel(
    "tiny.v1", "", "/models/tiny", "sha256:1", "Llama", 128, 1, 1, "t0", True, True, datetime(2026, 1, 1, tzinfo=UTC)
)
SETTINGS = EngineSettings("/objects", "s3cret")
OTHER = {"name": "other", "route_prefix": "/other", "import_path": "a:b"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What Serve's proxy was asked."""

    path: str
    headers: dict[str, str]
    content: bytes


class FakeProxy:
    """Serve's HTTP proxy on a socket; says what it is given, each piece when it is told to go on."""

    def __init__(self) -> None:
        self.status = 404
        self.says: Sequence[bytes] = (b"Path not found.",)
        self.asked: list[Asked] = []
        self.left = asyncio.Event()
        """Set when a caller goes away in the middle."""
        self.goes_on = asyncio.Semaphore(1_000_000)
        self.breaks_off = False

    async def answer(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append(Asked(request.path, headers, await request.read()))
        answer = web.StreamResponse(status=self.status)
        await answer.prepare(request)
        try:
            for piece in self.says:
                await self.goes_on.acquire()
                await answer.write(piece)
        except asyncio.CancelledError:
            self.left.set()
            raise
        if self.breaks_off:
            assert request.transport is not None
            request.transport.close()
        return answer


class FakeServe:
    """Ray's dashboard, in memory; keeps what is put and says RUNNING."""

    def __init__(self) -> None:
        self.applications: dict[str, dict[str, Any]] = {}
        self.puts: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/api/serve/applications/"
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


@pytest_asyncio.fixture
async def proxy() -> FakeProxy:
    return FakeProxy()


@pytest_asyncio.fixture
async def cluster(serve: FakeServe, proxy: FakeProxy) -> AsyncIterator[ServeCluster]:
    (port,) = free_ports(1)
    application = web.Application(client_max_size=64 << 20)
    application.router.add_route("*", "/{path:.*}", proxy.answer)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    dashboard = DashboardApplications("http://dashboard", transport=httpx.MockTransport(serve))
    host = ServeCluster("", replace(SETTINGS, http_port=port), applications=dashboard)
    yield host
    await host.close()
    await runner.cleanup()


async def test_ensure_puts_what_is_missing_and_keeps_others(cluster: ServeCluster, serve: FakeServe) -> None:
    serve.applications = {"other": serve.running(OTHER)}
    await cluster.ensure([BASE])
    (put,) = serve.puts
    assert put["http_options"] == {"host": "127.0.0.1", "port": cluster._settings.http_port}
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
    cluster._settings = replace(cluster._settings, options=EngineOptions(max_running=3))
    await cluster.ensure([BASE])
    assert [put["applications"][0]["args"]["options"]["max_running"] for put in serve.puts] == [32, 3]


def says(proxy: FakeProxy, *pieces: bytes, status: int = 200) -> None:
    proxy.status, proxy.says = status, pieces


async def test_serve_is_told_the_adapter(cluster: ServeCluster, proxy: FakeProxy) -> None:
    says(proxy, piece("b", FINISH_REASON_STOP))
    await answers(cluster)
    async for _ in cluster.stream_tokens("tiny.v1", StreamTokensRequest(adapter_digest="ab" * 32)):
        pass
    assert [asked.headers.get(ADAPTER_HEADER) for asked in proxy.asked] == [None, "ab" * 32]


async def answers(cluster: ServeCluster) -> list[str]:
    return [p.generate.text async for p in cluster.stream_tokens("tiny.v1", StreamTokensRequest(tenant_id="acme"))]


def piece(text: str, finish: Any = 0, **more: Any) -> bytes:
    response = StreamTokensResponse(generate=GenerateResponse(text=text, finish_reason=finish, **more))
    return frame(MESSAGE, response.SerializeToString())


async def test_a_stream_is_read_as_it_comes(cluster: ServeCluster, proxy: FakeProxy) -> None:
    proxy.goes_on = asyncio.Semaphore(1)
    says(proxy, piece("a"), piece("b", FINISH_REASON_STOP))
    heard = []
    async for answer in cluster.stream_tokens("tiny.v1", StreamTokensRequest(tenant_id="acme")):
        heard.append(answer.generate.text)
        proxy.goes_on.release()
    assert heard == ["a", "b"]
    (asked,) = proxy.asked
    assert asked.path == "/trellis-tiny.v1/stream-tokens"
    assert asked.headers[SECRET_HEADER] == SETTINGS.secret
    assert StreamTokensRequest.FromString(asked.content).tenant_id == "acme"


async def test_a_frame_may_come_in_parts(cluster: ServeCluster, proxy: FakeProxy) -> None:
    whole = piece("a") + piece("b", FINISH_REASON_STOP)
    says(proxy, *(whole[n : n + 1] for n in range(len(whole))))
    assert "".join(await answers(cluster)) == "ab"


async def test_pieces_that_have_come_together_are_one(cluster: ServeCluster, proxy: FakeProxy) -> None:
    used = Usage(prompt_tokens=7, completion_tokens=3, cached_prompt_tokens=2)
    chances = [TokenLogprob(token_id=n, logprob=-0.5 * n) for n in (1, 2, 3)]
    first = piece("-", token_ids=[0], adapter_digest="d")
    second = piece("He", token_ids=[1, 2], logprobs=chances[:2])
    last = piece("y", FINISH_REASON_STOP, token_ids=[3], logprobs=chances[2:], usage=used)
    says(proxy, first + second + last)
    assert [p.generate async for p in cluster.stream_tokens("tiny.v1", StreamTokensRequest())] == [
        GenerateResponse(text="-", token_ids=[0], adapter_digest="d"),
        GenerateResponse(
            text="Hey", token_ids=[1, 2, 3], logprobs=chances, finish_reason=FINISH_REASON_STOP, usage=used
        ),
    ]


async def test_several_answers_are_kept_apart_and_the_last_piece_stays_the_last(
    cluster: ServeCluster, proxy: FakeProxy
) -> None:
    together = (
        piece("-", index=0),
        piece("a", index=0),
        piece("x", index=1),
        piece("b", FINISH_REASON_STOP, index=0),
        piece("y", index=1),
        piece("z", FINISH_REASON_STOP, index=1, usage=Usage(prompt_tokens=1, completion_tokens=5)),
    )
    says(proxy, b"".join(together))
    got = [p.generate async for p in cluster.stream_tokens("tiny.v1", StreamTokensRequest())]
    assert [(one.index, one.text, one.HasField("usage")) for one in got] == [
        (0, "-", False),
        (0, "ab", False),
        (1, "xyz", True),
    ]


async def test_an_answer_that_breaks_off_beside_one_that_has_ended_is_an_error(
    cluster: ServeCluster, proxy: FakeProxy
) -> None:
    says(proxy, piece("a", index=1), piece("b", FINISH_REASON_STOP, index=0))
    wanted = StreamTokensRequest(generate=GenerateRequest(n=2))
    with pytest.raises(Unavailable, match="middle of an answer"):
        assert [p async for p in cluster.stream_tokens("tiny.v1", wanted)]


async def test_a_caller_that_goes_away_ends_the_work(cluster: ServeCluster, proxy: FakeProxy) -> None:
    proxy.goes_on = asyncio.Semaphore(1)
    says(proxy, piece("a"), piece("b", FINISH_REASON_STOP))
    async with aclosing(cluster.stream_tokens("tiny.v1", StreamTokensRequest())) as answer:  # type: ignore[type-var]
        await anext(answer)
    async with asyncio.timeout(20):
        await proxy.left.wait()


async def test_a_long_prompt_arrives_whole(cluster: ServeCluster, proxy: FakeProxy) -> None:
    says(proxy, piece("b", FINISH_REASON_STOP))
    wanted = StreamTokensRequest(request_id="r" * (3 << 20))
    assert [p async for p in cluster.stream_tokens("tiny.v1", wanted)]
    assert StreamTokensRequest.FromString(proxy.asked[0].content) == wanted


async def test_a_machine_that_is_gone_is_noticed_though_nothing_is_said(
    cluster: ServeCluster, proxy: FakeProxy
) -> None:
    proxy.goes_on = asyncio.Semaphore(1)
    says(proxy, piece("a"), piece("b", FINISH_REASON_STOP))
    async with cluster._engines.answer("POST", "/trellis-tiny.v1/stream-tokens") as response:
        assert response.connection is not None
        assert response.connection.transport is not None
        used = response.connection.transport.get_extra_info("socket")
        assert used.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        silent = used.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        tries, pause = (used.getsockopt(socket.IPPROTO_TCP, o) for o in (socket.TCP_KEEPCNT, socket.TCP_KEEPINTVL))
        assert silent + tries * pause <= 30


async def test_connections_are_used_again(cluster: ServeCluster, proxy: FakeProxy) -> None:
    says(proxy, piece("b", FINISH_REASON_STOP))
    for _ in range(3):
        await answers(cluster)
    session = cluster._engines._session
    assert session is not None
    assert session.connector is not None
    assert sum(len(kept) for kept in session.connector._conns.values()) == 1


async def test_the_engines_error_is_raised(cluster: ServeCluster, proxy: FakeProxy) -> None:
    busy = ResourceExhausted(Reason.ENGINE_BUSY, "Wait.", retry_after=1.5)
    says(proxy, piece("a") + error_frame(busy))
    heard = []
    with pytest.raises(ResourceExhausted) as caught:
        async for answer in cluster.stream_tokens("tiny.v1", StreamTokensRequest()):
            heard += [answer.generate.text]
    assert (caught.value.reason, caught.value.retry_after) == (Reason.ENGINE_BUSY, 1.5)
    assert heard == ["a"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"Path '/x' not found."),
        (503, b"backpressure"),
        (500, b"died"),
        (200, piece("a")),
        (200, b"nonsense"),
        (200, b""),
    ],
)
async def test_an_engine_that_is_not_there_is_unavailable(
    cluster: ServeCluster, proxy: FakeProxy, status: int, body: bytes
) -> None:
    says(proxy, body, status=status)
    await unavailable(cluster)


async def unavailable(cluster: ServeCluster) -> str:
    with pytest.raises(Unavailable) as caught:
        await answers(cluster)
    assert caught.value.reason == Reason.ENGINE_UNAVAILABLE
    assert caught.value.retry_after
    return caught.value.message


async def test_an_engine_that_breaks_off_is_unavailable(cluster: ServeCluster, proxy: FakeProxy) -> None:
    proxy.breaks_off = True
    says(proxy, piece("a"))
    await unavailable(cluster)


async def test_a_proxy_that_is_not_there_is_unavailable() -> None:
    (port,) = free_ports(1)
    cluster = ServeCluster("", replace(SETTINGS, http_port=port))
    assert "can't be reached" in await unavailable(cluster)
    with pytest.raises(TrellisError, match="can't be reached"):
        await cluster.engine_status("tiny.v1")
    await cluster.close()


async def test_a_refused_secret_is_our_own_fault(cluster: ServeCluster, proxy: FakeProxy) -> None:
    says(proxy, status=401)
    with pytest.raises(InternalError):
        await answers(cluster)


async def test_a_dashboard_that_does_not_answer_is_unavailable() -> None:
    cluster = ServeCluster("http://127.0.0.1:1", SETTINGS)
    with pytest.raises(Unavailable):
        await cluster.ensure([])
    await cluster.close()
