"""Adapters and aliases."""

from dataclasses import replace

import pytest
from tests.contract.store import samples

from trellis.errors import Aborted, NotFound
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.domain.adapter import Alias, Deployment


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


async def test_adapters_are_listed_newest_first(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        for number in range(1, 6):
            await unit.adapters.add(samples.adapter(number))
        await unit.adapters.add(samples.adapter(9, of="other"))
        first = await unit.adapters.list("acme", 3, None)
        second = await unit.adapters.list("acme", 3, first.next_cursor)
    assert [*first.items, *second.items] == [samples.adapter(number) for number in (5, 4, 3, 2, 1)]


async def test_what_is_deployed_is_wanted(units: UnitOfWorkFactory) -> None:
    states = [Deployment.UNDEPLOYED, Deployment.DEPLOYING, Deployment.DEPLOYED, Deployment.FAILED]
    adapters = [samples.adapter(n, deployment=state) for n, state in enumerate(states, 1)]
    async with units() as unit:
        for adapter in adapters:
            await unit.adapters.add(adapter)
        assert await unit.adapters.wanted() == adapters[1:]
        asked = replace(adapters[0], deployment=Deployment.DEPLOYING, deployment_message="Soon.", revision=2)
        await unit.adapters.save(asked)
        assert await unit.adapters.wanted() == [asked, *adapters[1:]]
        with pytest.raises(NotFound):
            await unit.adapters.save(samples.adapter(9))


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
