"""Jobs' attempts in the database."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, false, select, update

from trellis.server.domain.tuning_job import Attempt
from trellis.server.store import tables
from trellis.server.store.failures import already_exists, expect_one
from trellis.server.store.rows import named
from trellis.server.store.transaction import Rows

_a = tables.attempts.c


def read_attempt(row: Row[Any]) -> Attempt:
    """The attempt of a whole row."""
    return Attempt(**named(row))


def _name(attempt: Attempt) -> str:
    return f"Attempt {attempt.number} of job {attempt.job_uid}"


class AttemptRows(Rows):
    """The part of ports.TuningJobs about attempts."""

    async def add_attempt(self, attempt: Attempt) -> None:
        if not await self._transaction.add(tables.attempts, asdict(attempt)):
            raise already_exists(_name(attempt))
        self._transaction.touched.add(attempt.trainer_uid)

    async def get_attempt(self, uid: str, number: int) -> Attempt | None:
        row = await self._transaction.row(select(tables.attempts).where(_a.job_uid == uid, _a.number == number))
        return read_attempt(row) if row else None

    async def find_attempt(self, token_hash: str) -> Attempt | None:
        row = await self._transaction.row(select(tables.attempts).where(_a.token_hash == token_hash))
        return read_attempt(row) if row else None

    async def save_attempt(self, attempt: Attempt) -> None:
        where = (_a.job_uid == attempt.job_uid, _a.number == attempt.number)
        statement = update(tables.attempts).where(*where).values(asdict(attempt))
        expect_one(await self._transaction.change(statement), _name(attempt))

    async def attempts_to_clean_up(self, limit: int) -> Sequence[Attempt]:
        over = select(tables.attempts).where(_a.cleaned_up == false(), _a.end_time.is_not(None))
        return await self._attempts(over.order_by(_a.end_time), limit)

    async def expired_attempts(self, now: datetime, limit: int) -> Sequence[Attempt]:
        expired = select(tables.attempts).where(_a.end_time.is_(None), _a.lease_expire_time <= now)
        return await self._attempts(expired.order_by(_a.lease_expire_time), limit)

    async def open_attempts(self, limit: int) -> Sequence[Attempt]:
        running = select(tables.attempts).where(_a.end_time.is_(None))
        return await self._attempts(running.order_by(_a.create_time), limit)

    async def _attempts(self, statement: Select[Any], limit: int) -> Sequence[Attempt]:
        return [read_attempt(row) for row in await self._transaction.rows(statement.limit(limit))]
