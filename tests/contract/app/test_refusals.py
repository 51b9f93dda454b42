"""Refused calls in the trail: written beside the answer, under the caller's own tenant, and within bounds."""

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest
from tests.contract.app.audited_calls import call, trail
from tests.rpc_server import Door, open_door
from tests.server_fakes import World

from trellis.errors import Unavailable
from trellis.server.app.audit import Actor
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.refusals import PER_MINUTE, PER_SOURCE, Refusals
from trellis.server.domain.audit import AuditEvent
from trellis.server.domain.base_model import BaseModel
from trellis.server.rpc.peer import address_of
from trellis.v1 import adapter_pb2


@pytest.fixture
def database() -> str:
    """What both databases have to do with it, tests/contract/store shows."""
    return "sqlite"


@pytest.fixture
async def door(world: World, base: BaseModel) -> AsyncIterator[Door]:
    async with open_door(world) as opened:
        yield opened


async def refused(world: World) -> list[AuditEvent]:
    return [event for event in await trail(world) if event.status != "OK"]


async def one_refused(world: World) -> AuditEvent:
    """The event, which is written soon."""
    async with asyncio.timeout(20):
        while not (found := await refused(world)):
            await asyncio.sleep(0)
    [event] = found
    return event


async def get_adapter(door: Door, who: str) -> None:
    name = "tenants/acme/adapters/" + "0" * 24
    with pytest.raises(grpc.aio.AioRpcError):
        await call(
            door, "AdapterService.ListAdapterShares", adapter_pb2.ListAdapterSharesRequest(parent=name), who, "r1"
        )


async def test_a_stranger_is_in_the_trail_of_its_own_tenant(door: Door) -> None:
    await get_adapter(door, "stranger")
    event = await one_refused(door.world)
    assert (event.status, event.tenant, event.role) == ("PERMISSION_DENIED", "globex", "TENANT_ADMIN")
    assert event.principal.startswith("tenants/globex/apiKeys/")
    assert event.method == "/trellis.v1.AdapterService/ListAdapterShares"
    assert event.resource == "tenants/acme/adapters/" + "0" * 24
    assert (event.source, event.request_id) == ("127.0.0.1", "r1")


async def test_nobody_known_is_in_the_platforms_trail_without_what_it_sent(door: Door) -> None:
    door.secrets["wrong"] = "trk_" + "w" * 40
    await get_adapter(door, "wrong")
    event = await one_refused(door.world)
    assert (event.status, event.tenant, event.principal, event.role) == ("UNAUTHENTICATED", None, "", "")
    assert "w" * 40 not in str(event)


def actor(source: str) -> Actor:
    return Actor("", "", "/x", source, "r")


async def written(world: World, refusals: Refusals) -> int:
    await refusals.drain()
    return len(await refused(world))


async def test_no_source_fills_the_trail_and_what_was_left_out_is_counted(world: World) -> None:
    refusals = Refusals(world.context.units, world.context.clock)
    for _ in range(PER_SOURCE + 7):
        refusals.note(actor("192.0.2.1"), "UNAUTHENTICATED", None, "")
    refusals.note(actor("192.0.2.2"), "UNAUTHENTICATED", None, "")
    assert await written(world, refusals) == PER_SOURCE + 1
    world.clock.advance(60)
    refusals.note(actor("192.0.2.2"), "UNAUTHENTICATED", None, "")
    refusals.note(actor("192.0.2.1"), "UNAUTHENTICATED", None, "")
    assert await written(world, refusals) == PER_SOURCE + 3
    newest, counting, *_ = await refused(world)
    assert counting.after == {"refusals_left_out": 7}
    assert newest.after == {}


async def test_many_sources_together_are_bounded_too(world: World) -> None:
    refusals = Refusals(world.context.units, world.context.clock)
    for number in range(PER_MINUTE + 20):
        refusals.note(actor(f"192.0.{number // 250}.{number % 250}"), "UNAUTHENTICATED", None, "")
    assert await written(world, refusals) == PER_MINUTE


async def test_a_whole_ipv6_network_is_one_source(world: World) -> None:
    refusals = Refusals(world.context.units, world.context.clock)
    for number in range(PER_SOURCE + 5):
        refusals.note(actor(f"2001:db8::{number:x}"), "UNAUTHENTICATED", None, "")
    assert await written(world, refusals) == PER_SOURCE


async def test_a_database_that_is_busy_costs_the_event_and_nothing_else(world: World) -> None:
    is_busy = True

    def units(*, write: bool = True) -> UnitOfWork:
        if is_busy:
            raise Unavailable("DATABASE_BUSY", "The database is busy.")
        return world.context.units(write=write)

    refusals = Refusals(units, world.context.clock)
    refusals.note(actor("192.0.2.1"), "UNAUTHENTICATED", None, "")
    await refusals.drain()
    is_busy = False
    refusals.note(actor("192.0.2.2"), "UNAUTHENTICATED", None, "")
    await refusals.drain()
    assert [event.source for event in await refused(world)] == ["192.0.2.2"]


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:192.0.2.1:50123", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:50123", "2001:db8::1"),
        ("ipv6:[::1]:5", "::1"),
        ("unix:", "unix"),
        ("unix:/run/trellis.sock", "unix"),
        ("unix-abstract:%00name", "unix"),
        ("", ""),
        ("vsock:3:4", "vsock:3:4"),
    ],
)
def test_peers_are_named_by_their_address(peer: str, address: str) -> None:
    assert address_of(peer) == address
