"""Trainers that hang until others have their work, and then go on as if nothing had been."""

import asyncio
import time

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tests.chaos.installation import Installation
from trellis.server.domain.trainer import TrainerState
from trellis.server.store.tables.jobs import trainers

_LOOK_SECONDS = 0.05


async def until_given_up(there: Installation, words: str, seconds: float) -> None:
    """Return as soon as all trainers that work now are over for the servers, or when the time is up.

    Their processes have the words in their command lines. So soon, as the cluster is then told to kill them: one that goes on at
    once has its moment as a zombie.
    """
    database = create_async_engine(there.database_url)
    began = time.monotonic()
    try:
        hung = await _working(database)
        while hung and time.monotonic() < began + seconds:
            if not hung & await _working(database, usual=hung):
                left = len(there.pids_of(words))
                there.say(
                    f"{len(hung)} trainers are given up after {time.monotonic() - began:.1f} s; {left} processes go on"
                )
                return
            await asyncio.sleep(_LOOK_SECONDS)
    finally:
        await database.dispose()
    there.say(f"of {len(hung)} trainers not all are given up within {seconds:.0f} s")


async def _working(database: AsyncEngine, usual: frozenset[str] = frozenset()) -> frozenset[str]:
    """What the database says, or the usual while it is away."""
    query = select(trainers.c.uid).where(trainers.c.state != TrainerState.ENDED, trainers.c.start_time.is_not(None))
    try:
        async with database.connect() as connection:
            return frozenset((await connection.execute(query)).scalars())
    except (SQLAlchemyError, OSError):
        return usual
