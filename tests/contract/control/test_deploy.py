"""Engines and adapters follow what is wanted."""

from dataclasses import replace

import pytest
from tests.contract.control.platform import Platform
from tests.contract.store import samples

from trellis.errors import Unavailable
from trellis.server.app.hosts import HostState
from trellis.server.control.deploy import DeployAdapters
from trellis.server.domain.adapter import Adapter, Deployment
from trellis.wanted_adapters import WantedAdapters, wanted_key


async def wanted(platform: Platform, number: int = 1) -> Adapter:
    adapter = samples.adapter(number, deployment=Deployment.DEPLOYING)
    async with platform.units() as unit:
        await unit.adapters.add(adapter)
        await unit.commit()
    return adapter


async def look(platform: Platform, adapter: Adapter) -> Adapter:
    async with platform.units(write=False) as unit:
        found = await unit.adapters.get(adapter.tenant, adapter.adapter_id)
    assert found is not None
    return found


async def test_an_adapter_is_deployed_once_its_engine_runs(platform: Platform) -> None:
    adapter = await wanted(platform)
    await DeployAdapters(platform.control()).once()
    starting = await look(platform, adapter)
    assert (starting.deployment, starting.deployment_message) == (Deployment.DEPLOYING, "The engine is starting.")
    platform.engines.becomes("tiny", HostState.RUNNING, "All replicas are up.")
    await DeployAdapters(platform.control()).once()
    running = await look(platform, adapter)
    assert (running.deployment, running.deployment_message) == (Deployment.DEPLOYED, "")
    await DeployAdapters(platform.control()).once()
    assert await look(platform, adapter) == running, "what is so already is not said again"


async def test_an_engine_that_fails_is_told_and_may_recover(platform: Platform) -> None:
    adapter = await wanted(platform)
    step = DeployAdapters(platform.control())
    await step.once()
    platform.engines.becomes("tiny", HostState.FAILED, "Out of memory.")
    await step.once()
    failed = await look(platform, adapter)
    assert (failed.deployment, failed.deployment_message) == (Deployment.FAILED, "Out of memory.")
    platform.engines.becomes("tiny", HostState.RUNNING)
    await step.once()
    assert (await look(platform, adapter)).deployment is Deployment.DEPLOYED


async def test_an_engine_that_is_lost_comes_back(platform: Platform) -> None:
    adapter = await wanted(platform)
    step = DeployAdapters(platform.control())
    await step.once()
    platform.engines.becomes("tiny", HostState.RUNNING)
    await step.once()
    platform.engines.lose("tiny")
    await step.once()
    assert (await look(platform, adapter)).deployment is Deployment.DEPLOYING
    platform.engines.becomes("tiny", HostState.RUNNING)
    await step.once()
    assert (await look(platform, adapter)).deployment is Deployment.DEPLOYED


async def test_an_adapter_that_is_undeployed_meanwhile_stays_so(platform: Platform) -> None:
    adapter = await wanted(platform)
    step = DeployAdapters(platform.control())
    states = platform.engines.states

    async def undeploy_then_answer() -> dict[str, tuple[HostState, str]]:
        async with platform.units() as unit:
            await unit.adapters.save(samples.adapter())
            await unit.commit()
        return await states()

    platform.engines.states = undeploy_then_answer
    await step.once()
    assert (await look(platform, adapter)).deployment is Deployment.UNDEPLOYED


async def test_an_engine_that_nobody_wants_is_removed_unless_it_is_always_on(platform: Platform) -> None:
    await wanted(platform)
    await DeployAdapters(platform.control()).once()
    assert list(platform.engines.engines) == ["tiny"]
    async with platform.units() as unit:
        await unit.adapters.save(samples.adapter())
        await unit.commit()
    await DeployAdapters(platform.control()).once()
    assert platform.engines.engines == {}
    platform.settings = replace(platform.settings, always_on=("tiny", "unknown"))
    await DeployAdapters(platform.control()).once()
    assert list(platform.engines.engines) == ["tiny"]


async def test_replicas_are_told_which_adapters_to_have_at_hand(platform: Platform) -> None:
    step = DeployAdapters(platform.control())
    platform.settings = replace(platform.settings, always_on=("tiny",))
    first, second = await wanted(platform, 1), await wanted(platform, 2)
    await step.once()
    key = wanted_key("tiny")
    listed = WantedAdapters.from_json(platform.store.read_bytes(key)).adapters
    assert [adapter.digest for adapter in listed] == [second.digest, first.digest], "the one made last first"
    assert listed[0].key == second.key
    platform.store.delete(key)
    platform.clock.pass_seconds(5)
    await step.once()
    assert not platform.store.exists(key), "what is so already is not said again"
    async with platform.units() as unit:
        await unit.adapters.save(replace(await look(platform, second), deployment=Deployment.UNDEPLOYED))
        await unit.commit()
    await step.once()
    assert not platform.store.exists(key), "not at every change"
    platform.clock.pass_seconds(5)
    await step.once()
    assert [a.digest for a in WantedAdapters.from_json(platform.store.read_bytes(key)).adapters] == [first.digest]


async def test_an_unreachable_host_changes_nothing(platform: Platform) -> None:
    adapter = await wanted(platform)
    platform.engines.reachable = False
    with pytest.raises(Unavailable):
        await DeployAdapters(platform.control()).once()
    assert await look(platform, adapter) == adapter
