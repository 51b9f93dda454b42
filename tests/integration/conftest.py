"""The control plane on SQLite, with two tenants and the tiny base model, behind a real socket."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.migrated_database import engine, migrated_url, postgres_template, sqlite_template, sqlite_units, units
from tests.rpc_server import Door, open_door
from tests.server_fakes import World, make_world, prepare

from trellis.server.app.context import AppSettings
from trellis.server.app.ports import UnitOfWorkFactory

__all__ = ["engine", "migrated_url", "postgres_template", "sqlite_template", "sqlite_units", "units"]


@pytest.fixture
def settings() -> AppSettings:
    return AppSettings()


@pytest.fixture
async def world(sqlite_units: UnitOfWorkFactory, tmp_path: Path, settings: AppSettings) -> World:
    made = make_world(sqlite_units, tmp_path, settings)
    await prepare(made.context, "acme", "globex")
    return made


@pytest.fixture
async def door(world: World) -> AsyncIterator[Door]:
    async with open_door(world) as opened:
        yield opened
