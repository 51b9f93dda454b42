"""Fixtures of a database with all tables, on SQLite and on PostgreSQL, and of two servers on it."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from tests.postgres import PostgresServer
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.store.engine import create_engine_for
from trellis.server.store.migrations import migrate
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory


def _migrate(url: str) -> None:
    with ThreadPoolExecutor(1) as thread:  # the test's own thread may have a loop that runs
        thread.submit(lambda: asyncio.run(migrate(url))).result()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, to be copied."""
    path = tmp_path_factory.mktemp("store") / "template.db"
    _migrate(f"sqlite+aiosqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a migrated database, to be copied."""
    name = postgres_server.create_database()
    _migrate(postgres_server.url(name))
    yield name
    postgres_server.drop_database(name)


@pytest.fixture
def migrated_url(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a fresh database with all tables, on SQLite and then on PostgreSQL."""
    if database == "sqlite":
        yield _copied(request.getfixturevalue("sqlite_template"), tmp_path)
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.create_database(request.getfixturevalue("postgres_template"))
    yield server.url(name)
    server.drop_database(name)


def _copied(template: Path, folder: Path) -> str:
    shutil.copy(template, folder / "trellis.db")
    return f"sqlite+aiosqlite:///{folder / 'trellis.db'}"


@asynccontextmanager
async def _engine(url: str) -> AsyncIterator[AsyncEngine]:
    """An engine whose connections must have been given back at the end: one that is not would fail a later test."""
    engine = create_engine_for(url)
    yield engine
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    deadline = asyncio.get_running_loop().time() + 10
    while pool.checkedout() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.01)
    in_use = pool.checkedout()
    await engine.dispose()
    assert in_use == 0, "something the test started goes on using the database"


@pytest.fixture
async def engine(migrated_url: str) -> AsyncIterator[AsyncEngine]:
    async with _engine(migrated_url) as engine:
        yield engine


@pytest.fixture
def units(engine: AsyncEngine) -> UnitOfWorkFactory:
    return SqlUnitOfWorkFactory(engine)


@pytest.fixture
async def other_units(migrated_url: str) -> AsyncIterator[UnitOfWorkFactory]:
    """Another server on the same database."""
    async with _engine(migrated_url) as other:
        yield SqlUnitOfWorkFactory(other)


@pytest.fixture
async def sqlite_units(sqlite_template: Path, tmp_path: Path) -> AsyncIterator[UnitOfWorkFactory]:
    """On SQLite alone, for tests of what lies above the store."""
    async with _engine(_copied(sqlite_template, tmp_path)) as engine:
        yield SqlUnitOfWorkFactory(engine)
