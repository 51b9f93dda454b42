"""A lease has one holder, whoever asks, until it is over."""

import asyncio

from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.store.samples import at, claim

from trellis.errors import Aborted, Unavailable
from trellis.server.app.ports import UnitOfWorkFactory


async def acquire(units: UnitOfWorkFactory, token: str, now: float, expires: float) -> bool:
    async with units() as unit:
        acquired = await unit.leases.acquire("deploy", claim(token, expires), at(now))
        await unit.commit()
    return acquired


async def holds(units: UnitOfWorkFactory, token: str) -> bool:
    async with units() as unit:
        return await unit.leases.holds("deploy", token)


async def test_nobody_else_has_it_before_it_is_over(units: UnitOfWorkFactory) -> None:
    assert await acquire(units, "one", 0, 10)
    assert not await acquire(units, "two", 9.9, 20)
    assert (await holds(units, "one"), await holds(units, "two")) == (True, False)
    assert await acquire(units, "two", 10, 20)
    assert (await holds(units, "one"), await holds(units, "two")) == (False, True)


async def test_who_lost_it_can_neither_renew_nor_release_it(units: UnitOfWorkFactory) -> None:
    await acquire(units, "one", 0, 10)
    await acquire(units, "two", 10, 20)
    async with units() as unit:
        assert not await unit.leases.renew("deploy", claim("one", 99))
        await unit.leases.release("deploy", "one")
        assert await unit.leases.renew("deploy", claim("two", 30))
        await unit.commit()
    async with units(write=False) as unit:
        assert await unit.leases.expire_time("deploy") == at(30)
        assert await unit.leases.expire_time("sweep") is None


async def test_one_that_was_let_go_is_free(units: UnitOfWorkFactory) -> None:
    await acquire(units, "one", 0, 10)
    async with units() as unit:
        await unit.leases.release("deploy", "one")
        await unit.commit()
    assert await acquire(units, "two", 1, 20)


async def test_the_only_server_takes_all(units: UnitOfWorkFactory) -> None:
    await acquire(units, "one", 0, 10)
    async with units() as unit:
        await unit.leases.release_all()
        await unit.commit()
    assert not await holds(units, "one")
    assert await acquire(units, "two", 1, 20)


async def test_of_two_servers_that_ask_at_once_one_gets_it(
    units: UnitOfWorkFactory, other_units: UnitOfWorkFactory
) -> None:
    async def patiently(server: UnitOfWorkFactory, token: str) -> bool:
        for _ in range(20):
            try:
                return await acquire(server, token, 0, 10)
            except (Aborted, Unavailable):
                continue
        raise AssertionError("it never came through")

    servers = [units, other_units] * 5
    asked = [patiently(server, f"server {number}") for number, server in enumerate(servers)]
    assert sum(await asyncio.gather(*asked)) == 1


async def test_a_holder_keeps_it_to_the_end_of_its_unit_of_work(
    units: UnitOfWorkFactory, other_units: UnitOfWorkFactory, engine: AsyncEngine
) -> None:
    """What is written under the lease is committed before anybody else can have the lease."""
    await acquire(units, "one", 0, 10)
    order: list[str] = []
    entered = asyncio.Event()

    async def work() -> None:
        async with units() as unit:
            assert await unit.leases.holds("deploy", "one")
            entered.set()
            await asyncio.sleep(0.2)  # real time: the other one waits for a lock of the database
            order.append("worked")
            await unit.commit()

    async def take() -> None:
        await entered.wait()
        assert await acquire(other_units, "two", 11, 20)
        order.append("taken")

    await asyncio.gather(work(), take())
    assert order == ["worked", "taken"]
