"""A migrated database on SQLite and on PostgreSQL, and two servers on it."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.store.engine import create_engine_for
from trellis.server.store.migrations import migrate
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    await migrate(database_url)
    engine = create_engine_for(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
def units(engine: AsyncEngine) -> UnitOfWorkFactory:
    return SqlUnitOfWorkFactory(engine)


@pytest.fixture
async def other_units(engine: AsyncEngine, database_url: str) -> AsyncIterator[UnitOfWorkFactory]:
    """Another server on the same database."""
    other = create_engine_for(database_url)
    yield SqlUnitOfWorkFactory(other)
    await other.dispose()
