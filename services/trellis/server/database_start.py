"""Before a server serves: its database must be there, and at a version that it can use."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog
from sqlalchemy.exc import OperationalError

from trellis.server.store.migrations import DatabaseTooNewError, look, migrate
from trellis.server.store.migrations.locks import LockHeldError, LockPatience
from trellis.server.store.migrations.standing import Place

_log = structlog.get_logger(__name__)
_PAUSE_SECONDS = 1.0
_REMIND_EVERY = 30
"""Looks, of which one is logged when nothing has changed."""
_LOCKS = LockPatience(together=10.0)
"""For one look: a server that is told to stop meanwhile does not wait longer for locks than that."""


class Readiness:
    """Says why no call should come here: a sentence that was set, until there is somebody to ask."""

    def __init__(self) -> None:
        self.sentence = "The server starts."
        self._ask: Callable[[], Awaitable[str | None]] | None = None

    def asks(self, ask: Callable[[], Awaitable[str | None]]) -> None:
        """From now on whoever is asked says it."""
        self._ask = ask

    async def missing(self) -> str | None:
        """The sentence; None if calls may come."""
        return self.sentence if self._ask is None else await self._ask()


async def until_usable(url: str, migrates: str, readiness: Readiness, stop: asyncio.Event) -> bool:
    """Wait until the database is there, and migrate it, or wait until somebody has; False if told to stop meanwhile.

    However long it takes: whatever starts servers may start databases later. Raises DatabaseTooNewError.
    """
    looks = 0
    while not stop.is_set():
        why = await _once(url, migrates)
        if why is None:
            return True
        if why != readiness.sentence or looks % _REMIND_EVERY == 0:
            _log.warning("waiting_for_database", why=why)
        readiness.sentence, looks = why, looks + 1
        await _pause(stop)
    return False


async def _once(url: str, migrates: str) -> str | None:
    """Why the database can't be used yet; None if it can."""
    try:
        found = await (migrate(url, patience=_LOCKS) if migrates == "at_start" else look(url))
    except OperationalError as error:
        _log.info("database_away", error=str(error.orig).strip())
        return "The server waits for its database, which can't be reached."
    except LockHeldError as error:
        _log.warning("migration_waits", why=str(error))
        return "The server waits for migrations, which wait for what others hold in the database; the log says who."
    if found.place is Place.TOO_NEW:
        raise DatabaseTooNewError(found)
    return None if found.fits else f"The server waits for migrations: {found}"


async def _pause(stop: asyncio.Event) -> None:
    try:
        await asyncio.wait_for(stop.wait(), _PAUSE_SECONDS)
    except TimeoutError:
        return
