"""Engines: how SQLite and PostgreSQL are connected to."""

import asyncio
import contextlib
import sqlite3
from typing import Any

from sqlalchemy import Connection, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from trellis.server.store.patience import LOCK_SECONDS, USUAL, Patience
from trellis.server.store.postgresql import postgresql_engine

WRITE = "trellis_write"
"""The execution option of a connection that is going to write."""
_PRAGMAS = (
    f"PRAGMA busy_timeout = {LOCK_SECONDS * 1000}",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)


_ROLLING: set[asyncio.Task[None]] = set()


def create_engine_for(url: str, patience: Patience = USUAL) -> AsyncEngine:
    """An engine for `sqlite+aiosqlite:///path` or `postgresql+psycopg://…`; raises ValueError for anything else."""
    parsed = make_url(url)
    if parsed.drivername == "sqlite+aiosqlite":
        return _sqlite(parsed)
    if parsed.drivername == "postgresql+psycopg":
        return postgresql_engine(parsed, patience)
    raise ValueError(f"{parsed.drivername!r} is not supported: sqlite+aiosqlite and postgresql+psycopg are.")


def _sqlite(url: URL) -> AsyncEngine:
    if not url.database or url.database == ":memory:":
        raise ValueError("A SQLite database must be a file: several connections share it.")
    # isolation_level None switches off the driver's own BEGINs, which come too late and never IMMEDIATE.
    engine = create_async_engine(
        url, connect_args={"isolation_level": None, "timeout": LOCK_SECONDS}, pool_size=5, max_overflow=15
    )
    event.listen(engine.sync_engine, "connect", _prepare)
    event.listen(engine.sync_engine, "begin", _begin)
    event.listen(engine.sync_engine, "invalidate", _roll_back)
    return engine


def _prepare(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _begin(connection: Connection) -> None:
    write = connection.get_execution_options().get(WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _roll_back(connection: DBAPIConnection, _entry: ConnectionPoolEntry, _error: BaseException | None) -> None:
    """Ends the transaction of a connection that is about to be closed because its call was cancelled.

    SQLite keeps a closed connection, and its locks, for as long as one of its statements is held; the traceback of the
    cancelled call holds one until the garbage collector comes by, and nobody could write before that.
    """
    with contextlib.suppress(RuntimeError):  # without a loop it is the garbage collector that closes it
        rolling = asyncio.get_running_loop().create_task(_rolled_back(connection.driver_connection))
        _ROLLING.add(rolling)  # a loop holds its tasks weakly
        rolling.add_done_callback(_ROLLING.discard)


async def _rolled_back(driver: Any) -> None:
    with contextlib.suppress(ValueError, sqlite3.Error):  # it is closed already, or SQLite has rolled it back
        await driver.rollback()


def options_for(engine: AsyncEngine, *, write: bool, snapshot: bool = True) -> dict[str, Any]:
    """The execution options of a unit of work: readers see one state of the database throughout, and change nothing.

    Without a snapshot each query sees the newest state, which spares the transaction and two of three round trips.
    """
    if engine.dialect.name == "sqlite":
        return {WRITE: write}
    if write:
        return {"isolation_level": "READ COMMITTED"}
    if not snapshot:
        return {"isolation_level": "AUTOCOMMIT"}
    return {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
