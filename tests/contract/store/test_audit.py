"""The audit trail: only ever added to, and read by what is asked for."""

from dataclasses import replace

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.store import samples

from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.domain.audit import AuditEvent, AuditQuery

EVERYTHING = AuditQuery(everything=True)


def event(number: int = 0, tenant: str | None = "acme", **changes: object) -> AuditEvent:
    plain = AuditEvent(
        time=samples.at(number),
        tenant=tenant,
        principal="platform/apiKeys/key-1",
        role="ADMIN",
        method="/trellis.v1.TenantService/UpdateTenant",
        resource=f"tenants/{tenant}" if tenant else "baseModels/tiny",
        source="192.0.2.1",
        request_id=f"call-{number}",
        status="OK",
        before={"display_name": "Old"},
        after={"display_name": "New", "quota.budgets": [{"hard_limit": 5}]},
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


async def add(units: UnitOfWorkFactory, *events: AuditEvent) -> None:
    async with units() as unit:
        for one in events:
            await unit.audit.append(one)
        await unit.commit()


async def ids(units: UnitOfWorkFactory, query: AuditQuery) -> list[str]:
    async with units(write=False) as unit:
        return [one.request_id for one in (await unit.audit.list(query, 100, None)).items]


async def test_an_event_is_read_as_it_was_written_and_gets_its_place(units: UnitOfWorkFactory) -> None:
    await add(units, event(1), event(2, tenant=None))
    async with units(write=False) as unit:
        newest, oldest = (await unit.audit.list(EVERYTHING, 10, None)).items
    assert newest.sequence > oldest.sequence > 0
    assert replace(oldest, sequence=0) == event(1)
    assert replace(newest, sequence=0) == event(2, tenant=None)


async def test_pages_go_from_new_to_old_and_from_old_to_new_after_a_sequence(units: UnitOfWorkFactory) -> None:
    await add(units, *(event(number) for number in range(5)))
    async with units(write=False) as unit:
        first = await unit.audit.list(EVERYTHING, 2, None)
        second = await unit.audit.list(EVERYTHING, 2, first.next_cursor)
        after = AuditQuery(everything=True, after_sequence=second.items[-1].sequence)
        third = await unit.audit.list(after, 2, None)
        fourth = await unit.audit.list(after, 2, third.next_cursor)
    assert [one.request_id for one in (*first.items, *second.items)] == ["call-4", "call-3", "call-2", "call-1"]
    assert [one.request_id for one in (*third.items, *fourth.items)] == ["call-2", "call-3", "call-4"]
    assert fourth.next_cursor is None


async def test_filters_narrow_what_is_listed(units: UnitOfWorkFactory) -> None:
    await add(
        units,
        event(0),
        event(1, tenant="globex"),
        event(2, tenant=None),
        event(3, resource="tenants/acme/adapters/a_", principal="oidc:https://issuer#ann"),
        event(4, resource="tenants/acme/adapters/ab/x", method="/trellis.v1.AdapterService/DeleteAdapter"),
    )
    assert await ids(units, AuditQuery("acme")) == ["call-4", "call-3", "call-0"]
    assert await ids(units, AuditQuery(None)) == ["call-2"]
    assert await ids(units, AuditQuery("acme", principal="oidc:https://issuer#ann")) == ["call-3"]
    assert await ids(units, AuditQuery("acme", method="DeleteAdapter")) == ["call-4"]
    assert await ids(units, AuditQuery("acme", method="Adapter")) == []
    assert await ids(units, AuditQuery("acme", method="/trellis.v1.AdapterService/DeleteAdapter")) == ["call-4"]
    assert await ids(units, AuditQuery("acme", resource="tenants/acme/adapters/ab")) == ["call-4"]
    assert await ids(units, AuditQuery("acme", resource="tenants/acme/adapters/a_")) == ["call-3"]
    window = AuditQuery(everything=True, start_time=samples.at(1), end_time=samples.at(3))
    assert await ids(units, window) == ["call-2", "call-1"]


async def test_what_was_not_committed_is_not_in_the_trail(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        await unit.audit.append(event())
    assert await ids(units, EVERYTHING) == []


@pytest.mark.parametrize("statement", ["UPDATE audit_events SET principal = 'nobody'", "DELETE FROM audit_events"])
async def test_the_database_refuses_to_change_the_trail(
    units: UnitOfWorkFactory, engine: AsyncEngine, statement: str
) -> None:
    await add(units, event())
    with pytest.raises(DatabaseError, match="append-only"):
        async with engine.begin() as connection:
            await connection.execute(text(statement))
    assert await ids(units, EVERYTHING) == ["call-0"]


async def test_the_trail_outlives_its_tenant(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        await unit.tenants.add(samples.tenant())
        await unit.audit.append(event())
        await unit.commit()
    async with units() as unit:
        await unit.tenants.delete("acme")
        await unit.commit()
    assert await ids(units, AuditQuery("acme")) == ["call-0"]
