"""What one server at a time does: taken over when it dies, and nothing of a former holder is applied."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest
from tests.contract.control.platform import Platform
from tests.contract.store import samples

from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.control.context import DUTY, ControlContext
from trellis.server.control.lease import Lease, LeaseLostError
from trellis.server.control.one_server import OneServer

LONG = 2 * DUTY.total_seconds()


class Step:
    """Adds a tenant a round, named after the server; stops in between when it is told to."""

    name = "deploy"

    def __init__(self, context: ControlContext, server: str, before: Callable[[], asyncio.Event | None]) -> None:
        self._context = context
        self._server = server
        self._before = before
        self._rounds = 0

    async def once(self) -> bool:
        self._rounds += 1
        if (wait := self._before()) is not None:
            await wait.wait()
        async with self._context.units() as unit:
            await unit.tenants.add(samples.tenant(f"{self._server}-{self._rounds}", self._rounds))
            await unit.commit()
        return False


class Site:
    """Two servers that would both do it."""

    def __init__(self, platform: Platform, other_units: UnitOfWorkFactory) -> None:
        self.platform = platform
        self.pauses: dict[str, asyncio.Event] = {}
        self.made: list[str] = []
        contexts = {"a": platform.control(), "b": platform.control(other_units)}
        self.servers = {name: self._server(name, context) for name, context in contexts.items()}

    def _server(self, name: str, context: ControlContext) -> OneServer:
        def make(guarded: ControlContext) -> Step:
            self.made.append(name)
            return Step(guarded, name, lambda: self.pauses.get(name))

        return OneServer(context, "deploy", make)

    async def rounds(self, *names: str) -> None:
        for name in names:
            await self.servers[name].once()

    async def done(self) -> list[str]:
        async with self.platform.units(write=False) as unit:
            tenants = (await unit.tenants.list(100, None)).items
        return sorted(tenant.tenant_id for tenant in tenants if "-" in tenant.tenant_id)


@pytest.fixture
def site(platform: Platform, other_units: UnitOfWorkFactory) -> Site:
    return Site(platform, other_units)


async def test_only_the_holder_works(site: Site) -> None:
    await site.rounds("a", "b", "a", "b")
    assert await site.done() == ["a-1", "a-2"]


async def test_who_goes_lets_another_one_take_over_at_once(site: Site) -> None:
    await site.rounds("a", "b")
    await site.servers["a"].leave()
    site.platform.clock.pass_seconds(2)  # it looks so often
    await site.rounds("b")
    assert await site.done() == ["a-1", "b-1"]


async def test_who_dies_is_replaced_when_its_lease_is_over(site: Site) -> None:
    await site.rounds("a")
    site.platform.clock.pass_seconds(DUTY.total_seconds() - 1)
    await site.rounds("b")
    assert await site.done() == ["a-1"]
    site.platform.clock.pass_seconds(2)
    await site.rounds("b")
    assert await site.done() == ["a-1", "b-1"]


async def test_rounds_keep_the_lease(site: Site) -> None:
    for _ in range(10):
        site.platform.clock.pass_seconds(DUTY.total_seconds() / 2)
        await site.rounds("a", "b")
    assert await site.done() == sorted(f"a-{number}" for number in range(1, 11))
    assert site.made == ["a"]


async def test_the_work_of_a_former_holder_is_not_applied(site: Site) -> None:
    site.pauses["a"] = asyncio.Event()
    held_up = asyncio.create_task(site.servers["a"].once())
    while not site.made:
        await asyncio.sleep(0)
    site.platform.clock.pass_seconds(LONG)
    await site.rounds("b")
    site.pauses.pop("a").set()
    assert await held_up is False
    assert await site.done() == ["b-1"]
    # What comes back later begins anew: what it remembers is older than what another one did.
    await site.servers["b"].leave()
    site.platform.clock.pass_seconds(2)
    await site.rounds("a")
    assert await site.done() == ["a-1", "b-1"]
    assert site.made == ["a", "b", "a"]


async def test_nothing_outside_is_begun_without_the_lease(platform: Platform) -> None:
    context = platform.control()
    lease = Lease(context, "deploy", timedelta(seconds=10))
    guarded = lease.guard(context)
    with pytest.raises(LeaseLostError):
        await guarded.objects.run("exists", "x")
    assert await lease.hold()
    assert await guarded.objects.run("exists", "x") is False
    platform.clock.pass_seconds(8)  # nearly over: what is begun now might end after it
    with pytest.raises(LeaseLostError):
        await guarded.objects.run("exists", "x")
    assert await lease.hold()
    assert await guarded.objects.run("exists", "x") is False


async def test_an_error_of_the_step_is_the_loop_s_to_tell(site: Site) -> None:
    await site.rounds("a")
    async with site.platform.units() as unit:
        await unit.tenants.add(samples.tenant("a-2"))
        await unit.commit()
    with pytest.raises(Exception, match="a-2 exists"):
        await site.rounds("a")
