"""Bringing a database to the present tables, and saying where it stands."""

import asyncio
import threading
import time
from collections.abc import Callable

import structlog
from sqlalchemy import Connection

from trellis.errors import FailedPrecondition, Reason
from trellis.server.store.migrations.line import Line, Step
from trellis.server.store.migrations.locks import USUAL, LockHeldError, LockPatience, Tries
from trellis.server.store.migrations.session import Say, alone, engine_for, take
from trellis.server.store.migrations.standing import Place, Standing, standing

_log = structlog.get_logger(__name__)
_one_at_a_time = threading.Lock()  # alembic keeps its context in a global
_Choose = Callable[[Standing], Step | None]


class DatabaseTooNewError(FailedPrecondition):
    """Newer code has migrated the database to what this code can't use; `str()` says what to do."""

    def __init__(self, found: Standing) -> None:
        super().__init__(Reason.INVALID_STATE, str(found))


def _logged(sentence: str) -> None:
    _log.info("migration", said=sentence)


async def migrate(url: str, revision: str = "head", *, patience: LockPatience = USUAL, say: Say = _logged) -> Standing:
    """Bring the database at `url` up to a revision, the present tables by default; where it stands then.

    Doing it twice is harmless, and so is doing it from several servers at once: one migrates, the others wait. A database
    that newer code has migrated is left as it is; raises DatabaseTooNewError where this code can't use it, and LockHeldError
    where a lock was not to be had for as long as `patience` lasts. The database is then where the last step has brought it.
    """
    line = Line()

    def choose(found: Standing) -> Step | None:
        if found.place is Place.TOO_NEW:
            raise DatabaseTooNewError(found)
        return None if found.fits else line.up(found.found, revision)

    return await asyncio.to_thread(_walk, url, line, choose, patience, say)


async def downgrade(url: str, revision: str, *, patience: LockPatience = USUAL, say: Say = _logged) -> Standing:
    """Take the database at `url` back to a revision; `base` drops all that is ours, with what is in it."""
    line = Line()
    return await asyncio.to_thread(_walk, url, line, lambda found: line.down(found.found, revision), patience, say)


async def look(url: str) -> Standing:
    """Where the database at `url` stands; nothing is changed, and nobody waited for but the database."""
    return await asyncio.to_thread(_look, url)


def _look(url: str) -> Standing:
    with engine_for(url).connect() as connection:
        return _standing(connection, Line())


def _standing(connection: Connection, line: Line) -> Standing:
    return standing(connection, line.script)


def _walk(url: str, line: Line, choose: _Choose, patience: LockPatience, say: Say) -> Standing:
    """Step by step, each alone and after a new look: others may have taken some."""
    engine = engine_for(url)
    tries = Tries(patience)
    while True:
        try:
            with alone(engine, tries.left, say) as connection, _one_at_a_time:
                found = _standing(connection, line)
                step = choose(found)
                if step is None:
                    return found
                say(f"From {found.found or 'nothing'} to {step.target}.")
                take(step, connection, patience, say)
            tries = Tries(patience)
        except LockHeldError as error:
            pause = tries.pause()
            if pause is None:
                raise LockHeldError(f"{error.what} It was given {tries.seconds:.0f} s.", error.holders) from error
            say(f"{error.what} It is tried again in {pause:.0f} s.")
            time.sleep(pause)
