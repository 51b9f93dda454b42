"""PostgreSQL's connections: nothing waits for one for ever, and those that died are made anew."""

import asyncio
import contextlib
import math
import os
import socket
import time
from typing import Any, TypeVar

import psycopg
import structlog
from psycopg.abc import PQGen
from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from trellis.server.store.patience import LOCK_SECONDS, Patience

_log = structlog.get_logger(__name__)
Answer = TypeVar("Answer")
_RESTS_SINCE = "trellis_rests_since"
_REST_SECONDS = 1.0
_KEEPALIVES = {"keepalives": 1, "keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3}
_MILLISECONDS = 1000


class BoundedConnection(psycopg.AsyncConnection[Any]):
    """A connection on which no statement waits longer than `answer_seconds`, whatever the network does with it.

    PostgreSQL's own time limits end what the server works at; they say nothing when its answer never arrives.
    """

    answer_seconds: float = 40.0

    async def wait(self, gen: PQGen[Answer], *args: Any, **options: Any) -> Answer:
        """As the driver's; when the time is over the connection is cut, which the driver sees as it sees any other cut."""
        timer = asyncio.get_running_loop().call_later(self.answer_seconds, self._cut)
        try:
            return await super().wait(gen, *args, **options)
        finally:
            timer.cancel()

    def _cut(self) -> None:
        _log.warning("database_silent", seconds=self.answer_seconds)
        with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self.fileno())) as copy:
            copy.shutdown(socket.SHUT_RDWR)


def postgresql_engine(url: URL, patience: Patience) -> AsyncEngine:
    """An engine for `postgresql+psycopg://…`; what the URL's own query says is kept."""
    limits = (
        f"-c lock_timeout={LOCK_SECONDS}s -c statement_timeout={round(patience.statement * _MILLISECONDS)}"
        f" -c idle_in_transaction_session_timeout={round(2 * patience.answer * _MILLISECONDS)}"
    )
    usual = {
        "options": limits,
        "connect_timeout": patience.connect,
        "tcp_user_timeout": round(patience.answer * _MILLISECONDS),
        **_KEEPALIVES,
    }

    class Connection(BoundedConnection):
        answer_seconds = patience.answer

    arguments = {name: value for name, value in usual.items() if name not in url.query}
    engine = create_async_engine(
        url,
        connect_args={**arguments, "async_creator_fn": Connection.connect},
        pool_size=10,
        max_overflow=20,
        pool_timeout=patience.pool,
    )
    _ping_after_a_rest(engine, patience)
    return engine


def _ping_after_a_rest(engine: AsyncEngine, patience: Patience) -> None:
    """Connections that nobody has used for a while are asked whether they live; SQLAlchemy's own ping asks all."""

    def rest(_connection: DBAPIConnection | None, entry: ConnectionPoolEntry) -> None:
        entry.info[_RESTS_SINCE] = time.monotonic()

    def wake(connection: DBAPIConnection, entry: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
        dialect: Any = engine.dialect
        driver = entry.driver_connection
        assert isinstance(driver, BoundedConnection)
        driver.answer_seconds = patience.ping
        try:
            # SQLAlchemy leaves False behind, with which the driver asks for READ WRITE: past the operator's own read-only
            # default, and in words that a standby refuses as nonsense.
            dialect.set_readonly(connection, None)
            if time.monotonic() - entry.info.get(_RESTS_SINCE, math.inf) >= _REST_SECONDS:
                dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error as error:
            raise InvalidatePoolError from error  # this one and its like are made anew
        finally:
            driver.answer_seconds = patience.answer

    event.listen(engine.sync_engine, "checkin", rest)
    event.listen(engine.sync_engine, "checkout", wake)
