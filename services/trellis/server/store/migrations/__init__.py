"""Bringing a database to the present tables, and saying where it stands."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, make_url, text

from trellis.errors import FailedPrecondition, Reason
from trellis.server.store.migrations.standing import Place, Standing, standing

Result = TypeVar("Result")
_LOCK = 0x7472_0000
_SECONDS = 120
_POSTGRESQL: Final = {"connect_timeout": 5, "keepalives_idle": 15, "keepalives_interval": 5, "keepalives_count": 3}
_one_at_a_time = threading.Lock()  # alembic keeps its context in a global


class DatabaseTooNewError(FailedPrecondition):
    """Newer code has migrated the database to what this code can't use; `str()` says what to do."""

    def __init__(self, found: Standing) -> None:
        super().__init__(Reason.INVALID_STATE, str(found))


async def migrate(url: str, revision: str = "head") -> Standing:
    """Bring the database at `url` up to a revision, the present tables by default; where it stands then.

    Doing it twice is harmless, and so is doing it from several servers at once: one migrates, the others wait. A database
    that newer code has migrated is left as it is; raises DatabaseTooNewError where this code can't use it.
    """
    return await asyncio.to_thread(_exclusively, url, lambda connection: _upgrade(connection, revision))


async def downgrade(url: str, revision: str) -> Standing:
    """Take the database at `url` back to a revision; `base` drops all that is ours, with what is in it."""
    return await asyncio.to_thread(_exclusively, url, lambda connection: _run(connection, command.downgrade, revision))


async def look(url: str) -> Standing:
    """Where the database at `url` stands; nothing is changed, and nobody waited for but the database."""
    return await asyncio.to_thread(_look, url)


def config_for(connection: Connection) -> Config:
    """Alembic's configuration, for migrations on this connection."""
    config = _config()
    config.attributes["connection"] = connection
    return config


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def _upgrade(connection: Connection, revision: str) -> Standing:
    found = _standing(connection)
    if found.place is Place.TOO_NEW:
        raise DatabaseTooNewError(found)
    return found if found.fits else _run(connection, command.upgrade, revision)


def _run(connection: Connection, verb: Callable[[Config, str], None], revision: str) -> Standing:
    verb(config_for(connection), revision)
    return _standing(connection)


def _look(url: str) -> Standing:
    engine = _engine(url)
    try:
        with engine.connect() as connection:
            return _standing(connection)
    finally:
        engine.dispose()


def _standing(connection: Connection) -> Standing:
    return standing(connection, ScriptDirectory.from_config(_config()))


def _exclusively(url: str, work: Callable[[Connection], Result]) -> Result:
    with _one_at_a_time, _alone(url) as connection:
        return work(connection)


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        options: dict[str, Any] = {"isolation_level": None, "timeout": _SECONDS}
        return create_engine(parsed.set(drivername="sqlite"), connect_args=options)
    return create_engine(parsed, connect_args={k: v for k, v in _POSTGRESQL.items() if k not in parsed.query})


@contextmanager
def _alone(url: str) -> Iterator[Connection]:
    """A connection in a transaction that nobody else's migration runs beside; committed at the end."""
    engine = _engine(url)
    if engine.dialect.name == "sqlite":
        # Foreign keys stay off, for making a table anew drops the old one.
        prepare, begin, lock = "PRAGMA journal_mode = WAL", "BEGIN IMMEDIATE", None
    else:
        prepare, begin, lock = None, None, f"SELECT pg_advisory_xact_lock({_LOCK})"
    try:
        with engine.connect() as connection:
            for statement in (prepare, begin, lock):
                if statement:
                    connection.execute(text(statement))
            yield connection
            connection.commit()
    finally:
        engine.dispose()
