"""Two replicas of the real Ray Serve application: where calls go, what replicas have at hand, and how they are replaced."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio
from tests.local_ray import TOKEN, LocalRay, local_ray
from tests.workshop import Workshop, make_workshop

from trellis.engine_options import EngineOptions
from trellis.errors import Unavailable
from trellis.local.processes import marked_pids
from trellis.server.app.hosts import HostState
from trellis.server.clusters.serve import EngineSettings, ServeCluster
from trellis.server.domain.base_model import BaseModel
from trellis.v1.engine_pb2 import GetEngineStatusResponse, StreamTokensRequest
from trellis.v1.inference_pb2 import FINISH_REASON_LENGTH, FINISH_REASON_STOP, GenerateRequest, SamplingParams
from trellis.wanted_adapters import WantedAdapter, WantedAdapters, wanted_key

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(240)]
async_test = pytest.mark.asyncio(loop_scope="module")
_READY_SECONDS = 120.0
_OPTIONS = EngineOptions(min_replicas=2, max_replicas=2, max_running=4, max_waiting=200, tenant_room=1000)


@pytest.fixture(scope="module")
def ray() -> Iterator[LocalRay]:
    with local_ray(1) as running:
        yield running


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("replicas"))


@pytest.fixture(scope="module")
def base(workshop: Workshop) -> BaseModel:
    facts = workshop.facts
    made = datetime(2026, 1, 1, tzinfo=UTC)
    source, digest = str(facts.path), workshop.tokenizer.digest
    return BaseModel("tiny", "", source, facts.revision, "Llama", facts.context_length, 1, 1, digest, True, True, made)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(ray: LocalRay, workshop: Workshop, base: BaseModel) -> AsyncIterator[ServeCluster]:
    settings = EngineSettings(workshop.store.url, "a secret", http_port=ray.ports.serve_http, options=_OPTIONS)
    host = ServeCluster(ray.url, settings, TOKEN)
    await host.ensure([base])
    async with asyncio.timeout(_READY_SECONDS):
        while (state := (await host.states()).get("tiny", (HostState.ABSENT, "")))[0] is not HostState.RUNNING:
            assert state[0] is not HostState.FAILED, state
            await asyncio.sleep(0.2)
    await replicas(host)
    yield host
    await host.close()


def call(digest: str, max_tokens: int = 8) -> StreamTokensRequest:
    sampling = SamplingParams(temperature=0)
    generate = GenerateRequest(prompt="hello", sampling=sampling, max_tokens=max_tokens)
    return StreamTokensRequest(
        tenant_id="acme", adapter_digest=digest, adapter_key=f"adapters/{digest}", generate=generate
    )


async def answer(cluster: ServeCluster, request: StreamTokensRequest) -> list[int]:
    pieces = [piece.generate async for piece in cluster.stream_tokens("tiny", request)]
    assert pieces[-1].finish_reason in {FINISH_REASON_LENGTH, FINISH_REASON_STOP}
    return [token for piece in pieces for token in piece.token_ids]


async def replicas(cluster: ServeCluster, count: int = 2) -> dict[str, GetEngineStatusResponse]:
    """What each replica says; the one that is asked is the one that Serve takes."""
    found: dict[str, GetEngineStatusResponse] = {}
    async with asyncio.timeout(_READY_SECONDS):
        while len(found) < count:
            status = await cluster.engine_status("tiny")
            found[status.replica] = status
            await asyncio.sleep(0.02)
    return found


def want(workshop: Workshop, digests: list[str]) -> None:
    wanted = WantedAdapters([WantedAdapter(digest, f"adapters/{digest}") for digest in digests])
    workshop.store.put_bytes(wanted_key("tiny"), wanted.to_json())


async def at_hand(cluster: ServeCluster, digests: list[str]) -> None:
    """Every replica has exactly these in the host's memory."""
    async with asyncio.timeout(_READY_SECONDS):
        while any(set(s.host_adapter_digests) != set(digests) for s in (await replicas(cluster)).values()):
            await asyncio.sleep(0.2)


@async_test
async def test_an_adapter_stays_where_it_is_until_that_replica_is_too_busy(
    cluster: ServeCluster, workshop: Workshop
) -> None:
    digests = [workshop.store_adapter(seed) for seed in range(1, 9)]
    for _ in range(3):
        for digest in digests:
            await answer(cluster, call(digest))
    held = [set(status.adapter_digests) for status in (await replicas(cluster)).values()]
    assert set.union(*held) == set(digests)
    assert not set.intersection(*held), "each is on one replica alone"
    assert all(held), "and they are dealt out"
    # Callers that go on: of a single burst the router learns when it is over, if the machine is slow.
    spread = asyncio.Event()

    async def caller() -> None:
        while not spread.is_set():
            await answer(cluster, call(digests[0], 60))

    async with asyncio.timeout(_READY_SECONDS), asyncio.TaskGroup() as group:
        for _ in range(24):
            group.create_task(caller())
        while not all(digests[0] in status.adapter_digests for status in (await replicas(cluster)).values()):
            await asyncio.sleep(0.1)
        spread.set()


@async_test
async def test_replicas_have_at_hand_what_is_wanted_and_a_new_one_gets_it_too(
    ray: LocalRay, cluster: ServeCluster, workshop: Workshop
) -> None:
    digests = [workshop.store_adapter(seed) for seed in range(1, 9)]
    want(workshop, digests)
    await at_hand(cluster, digests)
    want(workshop, digests[2:])
    await at_hand(cluster, digests[2:])
    before = set(await replicas(cluster))
    kill_one_replica(ray)
    async with asyncio.timeout(_READY_SECONDS):
        while not set(await patient(cluster)) - before:
            await asyncio.sleep(0.5)
    await at_hand(cluster, digests[2:])


async def patient(cluster: ServeCluster) -> dict[str, GetEngineStatusResponse]:
    try:
        return await replicas(cluster)
    except (Unavailable, TimeoutError):
        return {}


def kill_one_replica(ray: LocalRay) -> None:
    for pid in marked_pids(ray.marker):
        if b":engine" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
            return
    pytest.fail("there is no replica")


@async_test
async def test_new_settings_cut_no_answer(cluster: ServeCluster, workshop: Workshop, base: BaseModel) -> None:
    digest = workshop.store_adapter(1)
    expected = await answer(cluster, call(digest, 100))
    before = set(await replicas(cluster))
    replaced = asyncio.Event()
    answered: list[list[int]] = []

    async def keep_calling() -> None:
        while not replaced.is_set():
            answered.append(await answer(cluster, call(digest, 100)))

    callers = [asyncio.create_task(keep_calling()) for _ in range(8)]
    cluster._settings = replace(cluster._settings, options=replace(_OPTIONS, max_running=6))
    await cluster.ensure([base])
    async with asyncio.timeout(_READY_SECONDS):
        while not all(caller.done() for caller in callers):
            assert (await cluster.states())["tiny"][0] is HostState.RUNNING, "it can be called all the time"
            if not before & set(await replicas(cluster)):
                replaced.set()
            await asyncio.sleep(0.5)
    await asyncio.gather(*callers)
    assert answered
    assert all(tokens == expected for tokens in answered)
