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
