"""Migrations end at the tables that the code has, from wherever and by however many they are run."""

import asyncio
import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine
from tests.contract.store import samples

from trellis.server.app.ledger_reading import LedgerRange
from trellis.server.domain.derived import derive
from trellis.server.domain.ledger import Meter
from trellis.server.store.engine import create_engine_for
from trellis.server.store.migrations import downgrade, migrate
from trellis.server.store.tables import metadata
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory


def _differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, metadata))


def _tables(connection: Connection) -> list[str]:
    return inspect(connection).get_table_names()


async def test_head_has_the_tables_of_the_code(database_url: str) -> None:
    await migrate(database_url)
    engine = create_async_engine(database_url)
    async with engine.connect() as connection:
        assert await connection.run_sync(_differences) == []
    await engine.dispose()


async def test_down_leaves_nothing_and_up_goes_again(database_url: str) -> None:
    await migrate(database_url)
    await downgrade(database_url, "base")
    engine = create_async_engine(database_url)
    async with engine.connect() as connection:
        assert await connection.run_sync(_tables) == ["alembic_version"]
    await migrate(database_url)
    async with engine.connect() as connection:
        assert await connection.run_sync(_differences) == []
    await engine.dispose()


async def test_migrating_again_keeps_what_is_there(database_url: str) -> None:
    await migrate(database_url)
    engine = create_engine_for(database_url)
    units = SqlUnitOfWorkFactory(engine)
    async with units() as unit:
        await unit.tenants.add(samples.tenant())
        await unit.commit()
    await migrate(database_url)
    async with units(write=False) as unit:
        assert await unit.tenants.get("acme") == samples.tenant()
    await engine.dispose()


async def test_tenants_of_the_first_tables_get_the_usual_weight(database_url: str) -> None:
    await migrate(database_url)
    await downgrade(database_url, "v0001")
    engine = create_engine_for(database_url)
    async with engine.begin() as connection:
        values = "('old', '', '2026-01-01 00:00:00+00:00', 1)"
        await connection.execute(
            text(f"INSERT INTO tenants (tenant_id, display_name, create_time, revision) VALUES {values}")
        )
    await migrate(database_url)
    async with SqlUnitOfWorkFactory(engine)(write=False) as unit:
        found = await unit.tenants.get("old")
    assert found is not None
    assert found.serving_weight == 1.0
    await engine.dispose()


async def test_usage_of_before_the_ledger_is_moved_into_it_and_back(database_url: str) -> None:
    await migrate(database_url)
    await downgrade(database_url, "v0003")
    engine = create_engine_for(database_url)
    job, adapter, base = "tenants/old/tuningJobs/j", "tenants/old/adapters/a", "baseModels/tiny"
    old = [
        ("j-1-training_seconds", "training_seconds", 1.2345678, job, "2026-01-01 10:59:59.999999+00:00"),
        ("j-1-training_tokens", "training_tokens", 70.0, job, "2026-01-01 10:59:59.999999+00:00"),
        ("j-2-training_seconds", "training_seconds", 0.0001, job, "2026-01-01 11:00:00.000000+00:00"),
        ("c-1", "inference_prompt_tokens", 5.0, adapter, "2026-01-02 00:00:00.000000+00:00"),
        ("c-2", "inference_prompt_tokens", 6.0, adapter, "2026-01-02 00:30:00.000000+00:00"),
        ("c-3", "inference_completion_tokens", 7.0, base, "2026-01-02 00:30:00.000000+00:00"),
    ]
    sqlite = engine.dialect.name == "sqlite"  # which keeps times without a zone
    async with engine.begin() as connection:
        tenant = "('old', '', '2026-01-01 00:00:00+00:00', 1)"
        await connection.execute(
            text(f"INSERT INTO tenants (tenant_id, display_name, create_time, revision) VALUES {tenant}")
        )
        for key, kind, quantity, resource, time in old:
            values = {"key": key, "kind": kind, "quantity": quantity, "resource": resource}
            insert = "INSERT INTO usage_records (tenant, key, kind, quantity, resource, time) VALUES "
            moment = time.removesuffix("+00:00") if sqlite else time
            await connection.execute(text(f"{insert} ('old', :key, :kind, :quantity, :resource, '{moment}')"), values)
    await migrate(database_url)
    async with SqlUnitOfWorkFactory(engine)(write=False) as unit:
        moved = (await unit.ledger.entries(LedgerRange("old"), 100, None)).items
        assert await unit.ledger.derived("old") == derive(moved)
    assert {(one.key, one.meter, one.quantity, one.resource or one.adapter or one.base_model) for one in moved} == {
        ("j-1-training_seconds", Meter.ACCELERATOR_MILLISECONDS, 1235, job),
        ("j-1-training_tokens", Meter.TRAINED_TOKENS, 70, job),
        ("c-1", Meter.PROMPT_TOKENS, 5, adapter),
        ("c-2", Meter.PROMPT_TOKENS, 6, adapter),
        ("c-3", Meter.COMPLETION_TOKENS, 7, base),
    }
    await downgrade(database_url, "v0003")
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT key, kind, quantity, resource FROM usage_records ORDER BY key"))
        assert rows.all() == [(key, kind, round(q, 3), of) for key, kind, q, of, _ in sorted(old) if q > 0.001]
    await engine.dispose()


async def test_several_servers_migrate_at_once(database_url: str) -> None:
    program = (
        "import asyncio, sys; from trellis.server.store.migrations import migrate; asyncio.run(migrate(sys.argv[1]))"
    )
    servers = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", program, database_url, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    await asyncio.gather(*(migrate(database_url) for _ in range(3)))
    for server in servers:
        _, said = await server.communicate()
        assert server.returncode == 0, said.decode()


@pytest.mark.parametrize("url", ["sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:", "mysql://x/y", "sqlite:///x"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"SQLite database must be a file|is not supported"):
        create_engine_for(url)
