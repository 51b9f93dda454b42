"""Adapters and aliases."""

from dataclasses import replace

import pytest
from tests.contract.store import samples

from trellis.errors import Aborted, NotFound
from trellis.names import AdapterName, AliasName
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.domain.adapter import Alias, Deployment
from trellis.wanted_adapters import WantedAdapter


@pytest.fixture(autouse=True)
async def _tenants(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    async with units() as unit:
        await unit.tenants.add(samples.tenant("other"))
        await unit.commit()


def _alias(alias_id: str, number: int = 1) -> Alias:
    return Alias("acme", alias_id, samples.digest(number), samples.NOW)


async def test_an_adapter_is_added_once_a_tenant(units: UnitOfWorkFactory) -> None:
    mine, theirs = samples.adapter(), samples.adapter(of="other")
    async with units() as unit:
        assert await unit.adapters.add(mine)
        assert not await unit.adapters.add(replace(mine, display_name="Again"))
        assert await unit.adapters.add(theirs)
        assert await unit.adapters.get("acme", mine.adapter_id) == mine
        assert await unit.adapters.get("other", mine.adapter_id, for_update=True) == theirs
        assert await unit.adapters.get("acme", samples.adapter(2).adapter_id) is None


async def test_many_adapters_are_read_at_once_by_name_and_by_alias(units: UnitOfWorkFactory) -> None:
    mine, second, theirs = samples.adapter(1), samples.adapter(2), samples.adapter(1, of="other")
    async with units() as unit:
        for adapter in (mine, second, theirs):
            await unit.adapters.add(adapter)
        await unit.adapters.put_alias(_alias("live", 2))
        await unit.adapters.put_alias(Alias("other", "live", theirs.digest, samples.NOW))
        await unit.adapters.put_alias(_alias("next", 1))
        names = [AdapterName(a.tenant, a.adapter_id) for a in (mine, theirs, second, samples.adapter(3))]
        assert await unit.adapters.get_all(names) == dict(zip(names, (mine, theirs, second), strict=False))
        assert await unit.adapters.get_all([AdapterName("nobody", mine.adapter_id)]) == {}
        aliases = [AliasName("acme", "live"), AliasName("other", "live"), AliasName("other", "next")]
        assert await unit.adapters.get_aliased(aliases) == {aliases[0]: second, aliases[1]: theirs}
        assert await unit.adapters.get_aliased([]) == await unit.adapters.get_all([]) == {}


async def test_adapters_are_listed_newest_first(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        for number in range(1, 6):
            await unit.adapters.add(samples.adapter(number))
        await unit.adapters.add(samples.adapter(9, of="other"))
        first = await unit.adapters.list("acme", 3, None)
        second = await unit.adapters.list("acme", 3, first.next_cursor)
    assert [*first.items, *second.items] == [samples.adapter(number) for number in (5, 4, 3, 2, 1)]


STATES = (Deployment.UNDEPLOYED, Deployment.DEPLOYING, Deployment.DEPLOYED, Deployment.FAILED)


async def test_what_is_deployed_is_wanted(units: UnitOfWorkFactory) -> None:
    adapters = [samples.adapter(n, deployment=state) for n, state in enumerate(STATES, 1)]
    async with units() as unit:
        assert await unit.adapters.wanted_bases() == []
        await unit.adapters.add(adapters[0])
        assert await unit.adapters.wanted_bases() == [], "one that is not deployed"
        for adapter in adapters[1:]:
            await unit.adapters.add(adapter)
        assert await unit.adapters.wanted_bases() == ["baseModels/tiny"]
        newest = [WantedAdapter(a.digest, a.key) for a in reversed(adapters[1:])]
        assert await unit.adapters.newest_wanted("baseModels/tiny", 10) == newest
        assert await unit.adapters.newest_wanted("baseModels/tiny", 2) == newest[:2]
        assert await unit.adapters.newest_wanted("baseModels/other", 10) == []
        with pytest.raises(NotFound):
            await unit.adapters.save(samples.adapter(9))


async def test_what_has_become_of_an_engine_is_told_to_those_who_do_not_know(units: UnitOfWorkFactory) -> None:
    before = [samples.adapter(n, deployment=state) for n, state in enumerate(STATES, 1)]
    async with units() as unit:
        for adapter in before:
            await unit.adapters.add(adapter)

        async def told(deployment: Deployment, message: str) -> list[tuple[Deployment, str, int]]:
            assert not await unit.adapters.is_told("baseModels/tiny", deployment, message)
            changed = await unit.adapters.tell_deployment("baseModels/tiny", deployment, message)
            assert await unit.adapters.is_told("baseModels/tiny", deployment, message)
            assert await unit.adapters.tell_deployment("baseModels/tiny", deployment, message) == 0
            found = [await unit.adapters.get("acme", adapter.adapter_id) for adapter in before]
            assert sum(a is not None and a.deployment is deployment for a in found) >= changed > 0
            return [(a.deployment, a.deployment_message, a.revision - before[0].revision) for a in found if a]

        first = (Deployment.UNDEPLOYED, "", 0)
        deployed = Deployment.DEPLOYED
        assert await told(deployed, "") == [first, (deployed, "", 1), (deployed, "", 0), (deployed, "", 1)]
        failed = Deployment.FAILED
        assert await told(failed, "No room.") == [first, *((failed, "No room.", n) for n in (2, 1, 2))]
        assert await told(failed, "Gone.") == [first, *((failed, "Gone.", n) for n in (3, 2, 3))]
        assert await unit.adapters.is_told("baseModels/other", failed, "Anything.")


async def test_an_alias_moves(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        await unit.adapters.add(samples.adapter(1))
        await unit.adapters.add(samples.adapter(2))
        assert await unit.adapters.get_alias("acme", "live") is None
        await unit.adapters.put_alias(_alias("live"))
        moved = replace(_alias("live", 2), revision=2)
        await unit.adapters.put_alias(moved)
        assert await unit.adapters.get_alias("acme", "live", for_update=True) == moved
        assert await unit.adapters.aliases_of("acme", samples.digest(1)) == []
        assert await unit.adapters.aliases_of("acme", samples.digest(2)) == [moved]
        await unit.adapters.delete_alias("acme", "live")
        assert await unit.adapters.get_alias("acme", "live") is None


async def test_aliases_are_listed_by_name(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        await unit.adapters.add(samples.adapter(1))
        for name in ("c", "a", "b"):
            await unit.adapters.put_alias(_alias(name))
        first = await unit.adapters.list_aliases("acme", 2, None)
        second = await unit.adapters.list_aliases("acme", 2, first.next_cursor)
        assert await unit.adapters.aliases_of("acme", samples.digest(1)) == [_alias(n) for n in "abc"]
        assert (await unit.adapters.list_aliases("other", 2, None)).items == []
    assert [*first.items, *second.items] == [_alias(n) for n in "abc"]


async def test_an_adapter_goes_when_no_alias_points_at_it(units: UnitOfWorkFactory) -> None:
    adapter = samples.adapter(1)

    async def delete() -> None:
        async with units() as unit:
            await unit.adapters.delete("acme", adapter.adapter_id)
            await unit.commit()

    async with units() as unit:
        await unit.adapters.add(adapter)
        await unit.adapters.put_alias(_alias("live"))
        await unit.commit()
    with pytest.raises(Aborted):
        await delete()
    async with units() as unit:
        await unit.adapters.delete_alias("acme", "live")
        await unit.commit()
    await delete()
    async with units(write=False) as unit:
        assert await unit.adapters.get("acme", adapter.adapter_id) is None
