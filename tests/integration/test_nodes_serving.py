"""Engines on nodes that come late and are lost: who is left answers with the same tokens, and adapters find a new place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from tests.ray_nodes import ray_nodes
from tests.workshop import Workshop, make_workshop

from trellis.engine_options import EngineOptions
from trellis.errors import Unavailable
from trellis.local.ports import free_ports
from trellis.server.app.hosts import HostState
from trellis.server.clusters.serve import EngineSettings, ServeCluster
from trellis.server.domain.base_model import BaseModel
from trellis.v1.engine_pb2 import GetEngineStatusResponse, StreamTokensRequest
from trellis.v1.inference_pb2 import GenerateRequest, SamplingParams

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]
_SECONDS = 150.0
_OPTIONS = EngineOptions(cpus=1.0, min_replicas=2, max_replicas=2, max_running=4, max_waiting=200, tenant_room=1000)


@pytest.fixture
def ports() -> list[int]:
    return free_ports(2)


@pytest.fixture
def nodes(ports: list[int]) -> Iterator[Cluster]:
    """A head on which nothing is computed, with the dashboard through which engines are declared."""
    dashboard = {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": ports[0]}
    with ray_nodes(num_cpus=0, **dashboard) as cluster:
        yield cluster


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return make_workshop(tmp_path)


@pytest.fixture
async def engines(nodes: Cluster, ports: list[int], workshop: Workshop) -> AsyncIterator[ServeCluster]:
    settings = EngineSettings(workshop.store.url, "a secret", http_port=ports[1], options=_OPTIONS)
    host = ServeCluster(f"http://127.0.0.1:{ports[0]}", settings)
    yield host
    await host.close()


def base_of(workshop: Workshop) -> BaseModel:
    facts, made = workshop.facts, datetime(2026, 1, 1, tzinfo=UTC)
    source, digest = str(facts.path), workshop.tokenizer.digest
    return BaseModel("tiny", "", source, facts.revision, "Llama", facts.context_length, 1, 1, digest, True, True, made)


async def answer(engines: ServeCluster, digest: str) -> list[int]:
    """The adapter's answer, from whoever is there."""
    generate = GenerateRequest(prompt="hello", sampling=SamplingParams(temperature=0), max_tokens=8)
    call = StreamTokensRequest(
        tenant_id="acme", adapter_digest=digest, adapter_key=f"adapters/{digest}", generate=generate
    )
    async with asyncio.timeout(_SECONDS):
        while True:
            try:
                pieces = [piece.generate async for piece in engines.stream_tokens("tiny", call)]
            except Unavailable:
                await asyncio.sleep(0.2)
                continue
            return [token for piece in pieces for token in piece.token_ids]


async def replicas(engines: ServeCluster, count: int) -> dict[str, GetEngineStatusResponse]:
    """What the replicas say, once there are so many of them, and of no others."""
    async with asyncio.timeout(_SECONDS):
        while True:
            found: dict[str, GetEngineStatusResponse] = {}
            for _ in range(12):
                try:
                    status = await engines.engine_status("tiny")
                except Unavailable:
                    break
                found[status.replica] = status
            if len(found) == count:
                return found
            await asyncio.sleep(0.3)


async def test_engines_follow_the_nodes(nodes: Cluster, engines: ServeCluster, workshop: Workshop) -> None:
    base = base_of(workshop)
    await engines.ensure([base])
    async with asyncio.timeout(_SECONDS):
        while "tiny" not in (states := await engines.states()):
            await asyncio.sleep(0.2)
    assert states["tiny"][0] is HostState.STARTING, "no node is there yet, which is no failure"

    # The scale-up comes in part: one replica of two is enough to answer.
    nodes.add_node(num_cpus=1)
    digests = [workshop.store_adapter(seed) for seed in range(1, 7)]
    expected = {digest: await answer(engines, digest) for digest in digests}
    assert len({tuple(tokens) for tokens in expected.values()}) > 1, "adapters that all say the same would show nothing"
    assert (await engines.states())["tiny"][0] is HostState.RUNNING
    (first,) = await replicas(engines, 1)

    # It comes late: the adapters that are called spread over both.
    lost = nodes.add_node(num_cpus=1)
    both = await replicas(engines, 2)
    assert first in both
    busy = [asyncio.create_task(answer(engines, digests[0])) for _ in range(40)]
    assert all(tokens == expected[digests[0]] for tokens in await asyncio.gather(*busy))

    # One node is lost in the middle of calls: each is answered in the end, and as before.
    calls = [asyncio.create_task(answer(engines, digest)) for digest in digests * 5]
    await asyncio.sleep(0.05)
    nodes.remove_node(lost, allow_graceful=False)
    for digest, tokens in zip(digests * 5, await asyncio.gather(*calls), strict=True):
        assert tokens == expected[digest]
    (left,) = await replicas(engines, 1)
    for digest in digests:
        assert await answer(engines, digest) == expected[digest]
    held = (await replicas(engines, 1))[left]
    assert set(digests) <= {*held.adapter_digests, *held.host_adapter_digests}, "what was on the lost one is here now"

    # Another node takes its place.
    nodes.add_node(num_cpus=1)
    assert left in await replicas(engines, 2)
    assert await answer(engines, digests[1]) == expected[digests[1]]
