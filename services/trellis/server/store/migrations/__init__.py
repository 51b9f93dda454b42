"""Bringing a database to the present tables."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, make_url, text

_LOCK = 0x7472_0000
_SECONDS = 120
_one_at_a_time = threading.Lock()  # alembic keeps its context in a global


async def migrate(url: str) -> None:
    """Bring the database at `url` to the present tables.

    Doing it twice is harmless, and so is doing it from several servers at once: one migrates, the others wait.
    """
    await asyncio.to_thread(_run, url, command.upgrade, "head")


async def downgrade(url: str, revision: str) -> None:
    """Take the database at `url` back to a revision; `base` drops all that is ours, with what is in it."""
    await asyncio.to_thread(_run, url, command.downgrade, revision)


def _run(url: str, verb: Callable[[Config, str], None], revision: str) -> None:
    with _one_at_a_time, _exclusively(url) as connection:
        verb(config_for(connection), revision)


def config_for(connection: Connection) -> Config:
    """Alembic's configuration, for migrations on this connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


@contextmanager
def _exclusively(url: str) -> Iterator[Connection]:
    """A connection in a transaction that nobody else's migration runs beside; committed at the end."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        # Foreign keys stay off, for making a table anew drops the old one.
        options = {"isolation_level": None, "timeout": _SECONDS}
        engine = create_engine(parsed.set(drivername="sqlite"), connect_args=options)
        prepare, begin, lock = "PRAGMA journal_mode = WAL", "BEGIN IMMEDIATE", None
    else:
        engine = create_engine(parsed)
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
