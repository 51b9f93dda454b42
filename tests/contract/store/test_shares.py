"""Which tenants may call whose adapters."""

from dataclasses import replace

import pytest
from tests.contract.store import samples

from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.domain.adapter import AdapterShare


def share(number: int = 1, tenant: str = "guest", seconds: float = 1) -> AdapterShare:
    return AdapterShare("acme", samples.digest(number), tenant, samples.at(seconds))


@pytest.fixture(autouse=True)
async def _adapters(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    async with units() as unit:
        await unit.tenants.add(samples.tenant("guest"))
        for number in range(1, 5):
            await unit.adapters.add(samples.adapter(number))
        await unit.commit()


async def is_shared(units: UnitOfWorkFactory, tenant: str = "guest") -> bool:
    async with units(write=False) as unit:
        return await unit.adapters.is_shared("acme", samples.digest(1), tenant)


async def put(units: UnitOfWorkFactory, *shares: AdapterShare) -> None:
    async with units() as unit:
        for one in shares:
            await unit.adapters.put_share(one)
        await unit.commit()


async def test_a_share_is_for_its_tenant_and_adapter_alone(units: UnitOfWorkFactory) -> None:
    assert not await is_shared(units)
    await put(units, share())
    assert await is_shared(units)
    assert not await is_shared(units, "acme")
    async with units(write=False) as unit:
        assert not await unit.adapters.is_shared("acme", samples.digest(2), "guest")
        assert not await unit.adapters.is_shared("guest", samples.digest(1), "guest")


async def test_a_share_that_is_ended_is_gone_and_given_back_once(units: UnitOfWorkFactory) -> None:
    await put(units, share())
    async with units() as unit:
        assert await unit.adapters.delete_share("acme", samples.digest(1), "guest") == share()
        assert await unit.adapters.delete_share("acme", samples.digest(1), "guest") is None
        await unit.commit()
    assert not await is_shared(units)


async def test_sharing_again_only_moves_the_time(units: UnitOfWorkFactory) -> None:
    await put(units, share(), share(seconds=9))
    async with units(write=False) as unit:
        assert (await unit.adapters.shares_of("acme", samples.digest(1), 10, None)).items == [share(seconds=9)]


async def test_an_adapters_shares_are_listed_whether_or_not_there_is_such_a_tenant(units: UnitOfWorkFactory) -> None:
    await put(units, share(tenant="nobody", seconds=2), share(), share(tenant="zeta", seconds=2), share(2))
    async with units(write=False) as unit:
        first = await unit.adapters.shares_of("acme", samples.digest(1), 2, None)
        rest = await unit.adapters.shares_of("acme", samples.digest(1), 2, first.next_cursor)
    assert [one.tenant for one in (*first.items, *rest.items)] == ["guest", "nobody", "zeta"]


async def test_a_guest_lists_what_it_may_call_the_oldest_share_first(units: UnitOfWorkFactory) -> None:
    await put(units, share(1, seconds=3), share(2, seconds=5), share(3, seconds=4), share(4, "other"))
    async with units(write=False) as unit:
        first = await unit.adapters.shared_with("guest", 2, None)
        rest = await unit.adapters.shared_with("guest", 2, first.next_cursor)
    assert list(first.items) == [samples.adapter(1), samples.adapter(3)]
    assert list(rest.items) == [samples.adapter(2)]


async def test_the_adapter_takes_its_shares_with_it(units: UnitOfWorkFactory) -> None:
    await put(units, share())
    async with units() as unit:
        await unit.adapters.delete("acme", samples.adapter(1).adapter_id)
        await unit.commit()
    assert not await is_shared(units)


async def test_the_owner_takes_its_shares_with_it(units: UnitOfWorkFactory) -> None:
    await put(units, share())
    async with units() as unit:
        await unit.tenants.delete("acme")
        await unit.commit()
    async with units(write=False) as unit:
        assert (await unit.adapters.shares_of("acme", samples.digest(1), 10, None)).items == []


async def test_a_later_tenant_of_the_guests_name_inherits_nothing(units: UnitOfWorkFactory) -> None:
    await put(units, share(), share(tenant="later"))
    async with units() as unit:
        await unit.tenants.delete("guest")
        await unit.commit()
    assert not await is_shared(units)
    async with units() as unit:
        await unit.tenants.add(replace(samples.tenant("guest"), create_time=samples.at(2)))
        await unit.tenants.add(replace(samples.tenant("later"), create_time=samples.at(2)))
        await unit.commit()
    assert not await is_shared(units)
    assert not await is_shared(units, "later")
    await put(units, share(seconds=2))
    assert await is_shared(units)
