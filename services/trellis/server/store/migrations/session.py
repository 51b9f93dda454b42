"""The connection that a migration has: no other migration runs beside it, and on PostgreSQL no lock is waited for too long."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from trellis.server.store.migrations.holders import Onlooker, holders_of
from trellis.server.store.migrations.line import Step
from trellis.server.store.migrations.locks import DEADLOCK, LOCK_NOT_AVAILABLE, LockHeldError, LockPatience

Say = Callable[[str], None]
LOCK: Final = 0x7472_0000
_BUSY_SECONDS: Final = 120
_POLL_SECONDS: Final = 0.2
_REMIND_SECONDS: Final = 15.0
_POSTGRESQL: Final = {
    "connect_timeout": 5,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "application_name": "trellis-migrations",
    # A machine that vanished must not keep the lock of all migrations for hours.
    "options": "-c tcp_keepalives_idle=15 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3",
}


def engine_for(url: str) -> Engine:
    """An engine whose connections end when they are given back."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        options: dict[str, Any] = {"isolation_level": None, "timeout": _BUSY_SECONDS}
        return create_engine(parsed.set(drivername="sqlite"), connect_args=options, poolclass=NullPool)
    arguments = {name: value for name, value in _POSTGRESQL.items() if name not in parsed.query}
    return create_engine(parsed, connect_args=arguments, poolclass=NullPool)


@contextmanager
def alone(engine: Engine, seconds: float, say: Say) -> Iterator[Connection]:
    """A connection that no other migration runs beside. What is done on SQLite is one transaction, committed at the end.

    PostgreSQL's lock is the session's, and lasts beyond its transactions: a statement goes on for a while when its client is
    dead, and so does its lock. Nobody waits for it inside a transaction, for which an index that is made beside writers would
    wait in turn. Raises LockHeldError if another migration takes longer than `seconds`.
    """
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            # Foreign keys stay off, for making a table anew drops the old one.
            connection.execute(text("PRAGMA journal_mode = WAL"))
            connection.execute(text("BEGIN IMMEDIATE"))
        else:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            _take_lock(connection, seconds, say)
        yield connection
        connection.commit()


def _take_lock(connection: Connection, seconds: float, say: Say) -> None:
    begun = said = time.monotonic()
    while not connection.scalar(text(f"SELECT pg_try_advisory_lock({LOCK})")):
        now = time.monotonic()
        if now - begun >= seconds or now - said >= _REMIND_SECONDS:
            holders = tuple(holders_of(connection, LOCK))
            others = "; ".join(map(str, holders)) or "a session that has just ended"
            if now - begun >= seconds:
                raise LockHeldError(f"Another migration has not ended: {others}.", holders)
            say(f"Waiting for another migration: {others}.")
            said = now
        time.sleep(_POLL_SECONDS)


def take(step: Step, connection: Connection, patience: LockPatience, say: Say) -> None:
    """Take a step on a connection that is alone; raises LockHeldError if a lock was not to be had, and nothing is changed then.

    Of a step without a transaction what was done stays, and is taken up when the step is tried again.
    """
    if connection.dialect.name == "sqlite":
        step.run(connection)
        return
    pid = int(connection.scalar(text("SELECT pg_backend_pid()")) or 0)
    connection.commit()  # nothing is open, so that it may be chosen how statements are committed
    connection.execution_options(isolation_level="READ COMMITTED" if step.in_transaction else "AUTOCOMMIT")
    seconds = patience.once if step.in_transaction else patience.beside
    for setting in (f"lock_timeout = {round(seconds * 1000)}", "statement_timeout = 0"):
        connection.execute(text(f"SET {setting}"))
    with Onlooker(connection.engine, pid, min(patience.once, seconds) / 4, say) as onlooker:
        try:
            step.run(connection)
            connection.commit()
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in {LOCK_NOT_AVAILABLE, DEADLOCK}:
                raise
            seen = onlooker.seen
            who = str(seen) if seen else "a lock, held by somebody who was gone when it was looked"
            holders = tuple(seen.holders) if seen else ()
            raise LockHeldError(f"Migration {step.revision} waits for {who}.", holders) from error
