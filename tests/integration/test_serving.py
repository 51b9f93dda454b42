"""The real Ray Serve application on a tiny model, through the server's own side of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import grpc
import httpx
import pytest
import pytest_asyncio
from tests.workshop import Workshop, make_workshop

from trellis.engine import AdapterRef, Request, Sampling
from trellis.errors import InternalError, InvalidArgument, NotFound, Reason, TrellisError, Unavailable
from trellis.local.processes import MARKER, Child, marked_pids, sweep
from trellis.local.ray_head import RayPorts, ray_command, ray_environment
from trellis.server.app.hosts import HostState
from trellis.server.clusters.serve import EngineSettings, ServeCluster
from trellis.server.domain.base_model import BaseModel
from trellis.server.rpc.server import MAX_MESSAGE_BYTES
from trellis.v1.engine_pb2 import StreamTokensRequest
from trellis.v1.inference_pb2 import (
    FINISH_REASON_LENGTH,
    FINISH_REASON_UNSPECIFIED,
    ChatInput,
    ChatMessage,
    GenerateRequest,
    GenerateResponse,
    SamplingParams,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(240)]
async_test = pytest.mark.asyncio(loop_scope="module")
_SECRET = "a secret of the server and its engines"
_READY_SECONDS = 120.0
_MARKER = uuid.uuid4().hex[:16]


@dataclass(frozen=True, slots=True)
class RunningRay:
    ports: RayPorts
    token: str


@pytest.fixture(scope="module")
def ray() -> Iterator[RunningRay]:
    folder = Path(tempfile.gettempdir()) / f"ts-{_MARKER[:8]}"  # short: it holds Unix sockets
    folder.mkdir(mode=0o700)
    token = folder / "token"
    token.write_text(uuid.uuid4().hex * 2)
    ports = RayPorts.choose()
    environment = ray_environment({**os.environ, MARKER: _MARKER}, token)
    child = Child("ray", ray_command(ports, folder / "ray", 1), environment, folder / "ray.log")
    child.start()
    try:
        headers = {"authorization": f"Bearer {token.read_text()}"}
        deadline = time.monotonic() + _READY_SECONDS
        while not _answers(f"{ports.dashboard_url}/api/version", headers):
            assert child.exit_code() is None, child.last_lines()
            assert time.monotonic() < deadline, child.last_lines()
            time.sleep(0.2)
        yield RunningRay(ports, token.read_text())
    finally:
        child.stop(2)
        sweep(_MARKER)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(url: str, headers: dict[str, str]) -> bool:
    try:
        return httpx.get(url, headers=headers, trust_env=False).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("serving"))


@pytest.fixture(scope="module")
def base(workshop: Workshop) -> BaseModel:
    facts = workshop.facts
    return BaseModel(
        base_model_id="tiny.v1",
        display_name="tiny",
        source=str(facts.path),
        revision=facts.revision,
        architecture=facts.architecture,
        context_length=facts.context_length,
        parameter_count=facts.parameter_count,
        vocabulary_size=facts.vocabulary_size,
        tokenizer_digest=workshop.tokenizer.digest,
        has_chat_template=True,
        is_default=True,
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.fixture(scope="module")
def settings(ray: RunningRay, workshop: Workshop) -> EngineSettings:
    return EngineSettings(workshop.store.url, _SECRET, http_port=ray.ports.serve_http)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(ray: RunningRay, settings: EngineSettings, base: BaseModel) -> AsyncIterator[ServeCluster]:
    host = ServeCluster(ray.ports.dashboard_url, settings, ray.token)
    await host.ensure([base])
    deadline = time.monotonic() + _READY_SECONDS
    while (state := (await host.states()).get(base.base_model_id, (HostState.ABSENT, "")))[0] is not HostState.RUNNING:
        assert state[0] is not HostState.FAILED, state
        assert time.monotonic() < deadline, state
        await asyncio.sleep(0.2)
    yield host
    await host.close()


def call(digest: str = "", prompt: str = "hello", max_tokens: int = 12, key: str = "") -> StreamTokensRequest:
    generate = GenerateRequest(prompt=prompt, sampling=SamplingParams(temperature=0), max_tokens=max_tokens)
    return StreamTokensRequest(
        tenant_id="acme",
        adapter_digest=digest,
        adapter_key=key or (digest and f"adapters/{digest}"),
        generate=generate,
    )


async def answer(cluster: ServeCluster, request: StreamTokensRequest) -> list[GenerateResponse]:
    return [piece.generate async for piece in cluster.stream_tokens("tiny.v1", request)]


async def failure(cluster: ServeCluster, request: StreamTokensRequest) -> TrellisError:
    with pytest.raises(TrellisError) as caught:
        await answer(cluster, request)
    return caught.value


def expected(workshop: Workshop, digest: str, prompt: str = "hello", max_tokens: int = 12) -> list[int]:
    adapter = AdapterRef(digest, f"adapters/{digest}") if digest else None
    engine = workshop.engine()
    ids = tuple(workshop.tokenizer.encode_text(prompt))
    engine.submit(Request("r", ids, adapter, sampling=Sampling(temperature=0.0), max_tokens=max_tokens))
    found = []
    while engine.has_work:
        found += [token for output in engine.step() for token in output.token_ids]
    return found


def ids_of(pieces: list[GenerateResponse]) -> list[int]:
    return [token for piece in pieces for token in piece.token_ids]


async def idle(cluster: ServeCluster) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while (status := await cluster.engine_status("tiny.v1")).running_requests + status.waiting_requests:
        assert time.monotonic() < deadline, status
        await asyncio.sleep(0.05)


@async_test
async def test_two_adapters_and_the_base_at_once(cluster: ServeCluster, workshop: Workshop) -> None:
    digests = ["", workshop.store_adapter(1), workshop.store_adapter(2)]
    answers = await asyncio.gather(*(answer(cluster, call(digest)) for digest in digests * 3))
    for digest, pieces in zip(digests * 3, answers, strict=True):
        assert ids_of(pieces) == expected(workshop, digest)
        assert pieces[0].adapter_digest == digest
        assert all(not piece.adapter_digest for piece in pieces[1:])
        assert [p.finish_reason for p in pieces[:-1]] == [FINISH_REASON_UNSPECIFIED] * (len(pieces) - 1)
        assert pieces[-1].usage.prompt_tokens == 5
        assert pieces[-1].usage.completion_tokens == len(ids_of(pieces))
    status = await cluster.engine_status("tiny.v1")
    assert set(status.adapter_digests) == set(digests[1:])
    assert (status.base_model, status.base_revision) == ("baseModels/tiny.v1", workshop.facts.revision)


@async_test
async def test_an_answer_streams(cluster: ServeCluster) -> None:
    async with asyncio.timeout(30):
        pieces = cluster.stream_tokens("tiny.v1", call(max_tokens=100))
        first = await anext(aiter(pieces))
        assert first.generate.finish_reason == FINISH_REASON_UNSPECIFIED
        assert len(first.generate.token_ids) == 1
        await pieces.aclose()  # type: ignore[attr-defined]
    await idle(cluster)


@async_test
async def test_a_caller_that_goes_away_ends_its_request(cluster: ServeCluster, workshop: Workshop) -> None:
    digest = workshop.store_adapter(1)
    streams = [asyncio.create_task(answer(cluster, call(digest, max_tokens=120))) for _ in range(30)]
    await asyncio.sleep(0.3)
    for stream in streams:
        stream.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    await idle(cluster)
    assert ids_of(await answer(cluster, call())) == expected(workshop, "")


@async_test
async def test_a_replica_that_dies_is_replaced(cluster: ServeCluster, workshop: Workshop) -> None:
    with suppress(Unavailable):  # the connection may be cut before the answer, or after it
        await asyncio.gather(answer(cluster, call(max_tokens=120)), asyncio.to_thread(kill_replica))
    async with asyncio.timeout(_READY_SECONDS):
        while True:
            try:
                assert ids_of(await answer(cluster, call())) == expected(workshop, "")
                return
            except Unavailable:
                await asyncio.sleep(0.5)


def kill_replica() -> None:
    os.kill(replica(), signal.SIGKILL)


def replica() -> int:
    for pid in marked_pids(_MARKER):
        if b":engine" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return pid
    pytest.fail("there is no replica")


def ports_of(pid: int) -> set[int]:
    """What the process listens on."""
    sockets = {str(fd.readlink()) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.is_symlink()}
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    listening = [row for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets]
    return {int(row[1].rsplit(":", 1)[1], 16) for row in listening}


@async_test
async def test_nobody_calls_a_replica_past_its_proxy_without_ray_s_token(cluster: ServeCluster) -> None:
    said = set()
    for port in ports_of(replica()):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/ray.serve.ASGIService/HandleRequest")(b"", timeout=10)
            said.add(caught.value.code())
    # Ray's own port of each worker knows no such method.
    assert said == {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED}


@async_test
async def test_a_conversation_is_rendered(cluster: ServeCluster, workshop: Workshop) -> None:
    request = call(max_tokens=3)
    request.generate.chat.CopyFrom(ChatInput(messages=[ChatMessage(role="user", content="hello")]))
    pieces = await answer(cluster, request)
    assert pieces[-1].usage.prompt_tokens > 5
    request.generate.chat.messages[0].role = "wizard"
    error = await failure(cluster, request)
    assert isinstance(error, InvalidArgument)
    assert error.violations[0].field == "chat.messages[0].role"


@async_test
@pytest.mark.parametrize("tokens", [200, MAX_MESSAGE_BYTES - 1000])
async def test_too_long_a_prompt_says_how_long(cluster: ServeCluster, tokens: int) -> None:
    error = await failure(cluster, call(prompt="x" * tokens))
    assert isinstance(error, InvalidArgument)
    assert error.reason == Reason.CONTEXT_EXCEEDED
    assert error.metadata == {"prompt_tokens": str(tokens), "context_length": "128"}
    assert ids_of(await answer(cluster, call()))


@async_test
async def test_a_missing_adapter_is_not_found(cluster: ServeCluster) -> None:
    error = await failure(cluster, call("0" * 64))
    assert isinstance(error, NotFound)
    assert ids_of(await answer(cluster, call()))


@async_test
async def test_an_adapter_under_another_digest_is_refused(cluster: ServeCluster, workshop: Workshop) -> None:
    digest = workshop.store_adapter(3)
    error = await failure(cluster, call("0" * 64, key=f"adapters/{digest}"))
    assert isinstance(error, InvalidArgument)
    assert error.reason == Reason.ADAPTER_INVALID


@async_test
async def test_the_secret_is_needed(ray: RunningRay, settings: EngineSettings, cluster: ServeCluster) -> None:
    stranger = ServeCluster(ray.ports.dashboard_url, replace(settings, secret="guessed"), ray.token)
    error = await failure(stranger, call())
    await stranger.close()
    assert isinstance(error, InternalError)
    assert "secret" in error.message


@async_test
async def test_an_engine_that_is_not_there_is_unavailable(cluster: ServeCluster) -> None:
    with pytest.raises(Unavailable) as caught:
        await anext(aiter(cluster.stream_tokens("other", call())))
    assert caught.value.reason == Reason.ENGINE_UNAVAILABLE
    assert caught.value.retry_after


def test_nothing_listens_beyond_this_machine(ray: RunningRay, cluster: ServeCluster) -> None:
    port = f"{ray.ports.serve_http:04X}"
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    listening = {row[1].split(":")[0] for row in rows if row[1].endswith(f":{port}") and row[3] == "0A"}
    assert listening == {"0100007F"}


@async_test
async def test_ensure_again_changes_nothing(
    ray: RunningRay, cluster: ServeCluster, base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        pytest.fail("it was put again")

    monkeypatch.setattr(cluster._applications, "declare", refuse)
    await cluster.ensure([base])
    assert (await cluster.states())["tiny.v1"][0] is HostState.RUNNING


@async_test
async def test_finish_reason_is_length_at_max_tokens(cluster: ServeCluster) -> None:
    pieces = await answer(cluster, call(max_tokens=1))
    assert pieces[-1].finish_reason == FINISH_REASON_LENGTH


@async_test
async def test_a_base_that_is_not_wanted_is_removed_and_a_broken_one_says_why(
    cluster: ServeCluster, base: BaseModel
) -> None:
    broken = replace(base, base_model_id="broken", source="/no/such/folder")
    await cluster.ensure([broken])
    async with asyncio.timeout(_READY_SECONDS):
        while (await cluster.states()).get("broken", (HostState.ABSENT,))[0] is not HostState.FAILED:
            await asyncio.sleep(0.5)
        while "tiny.v1" in (states := await cluster.states()):
            await asyncio.sleep(0.5)
    assert "/no/such/folder" in states["broken"][1]
    with pytest.raises(Unavailable):
        await answer(cluster, call())
    await cluster.ensure([])
