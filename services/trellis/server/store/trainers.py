"""Shared trainers in the database."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sqlalchemy import Row, Select, delete, exists, false, func, or_, select, true, update

from trellis.server.domain.trainer import Room, Trainer, TrainerBase, TrainerState
from trellis.server.domain.tuning_job import Attempt
from trellis.server.store import tables
from trellis.server.store.attempts import read_attempt
from trellis.server.store.failures import already_exists, expect_one
from trellis.server.store.marks import TrainerMarkRows
from trellis.server.store.rows import in_batches, named
from trellis.server.store.transaction import for_update as locked

_t = tables.trainers.c
_a = tables.attempts.c
_LIVE = tuple(state for state in TrainerState if state is not TrainerState.ENDED)


def _read(row: Row[Any]) -> Trainer:
    values = named(row)
    return Trainer(**{**values, "room": Room(**values["room"]) if values["room"] else None})


class SqlTrainers(TrainerMarkRows):
    """See ports.Trainers."""

    async def add(self, trainer: Trainer) -> None:
        if not await self._transaction.add(tables.trainers, asdict(trainer)):
            raise already_exists(f"Trainer {trainer.uid}")

    async def get(self, uid: str, *, for_update: bool = False) -> Trainer | None:
        statement = select(tables.trainers).where(_t.uid == uid)
        row = await self._transaction.row(locked(statement) if for_update else statement)
        return _read(row) if row else None

    async def find(self, token_hash: str) -> Trainer | None:
        row = await self._transaction.row(select(tables.trainers).where(_t.token_hash == token_hash))
        return _read(row) if row else None

    async def save(self, trainer: Trainer) -> None:
        self._transaction.touched.add(trainer.uid)
        statement = update(tables.trainers).where(_t.uid == trainer.uid).values(asdict(trainer))
        expect_one(await self._transaction.change(statement), f"Trainer {trainer.uid}")

    async def live(self) -> Sequence[Trainer]:
        found: list[Trainer] = []
        for state in _LIVE:  # one look into the index each
            of_state = select(tables.trainers).where(_t.state == state)
            found += await self._trainers(of_state.order_by(_t.create_time))
        return sorted(found, key=lambda trainer: (trainer.create_time, trainer.uid))

    async def prune(self, before: datetime) -> int:
        newer = tables.trainers.alias()
        is_newer = (newer.c.base_model == _t.base_model, newer.c.create_time > _t.create_time)
        is_outdated = or_(_t.tokens_per_second == 0, exists().where(*is_newer, newer.c.tokens_per_second > 0))
        is_over = (_t.cleaned_up == true(), _t.end_time < before)
        return await self._transaction.change(delete(tables.trainers).where(*is_over, is_outdated))

    async def newest_measured(self, base_model: str) -> Trainer | None:
        of_base = select(tables.trainers).where(_t.base_model == base_model, _t.tokens_per_second > 0)
        row = await self._transaction.row(of_base.order_by(_t.create_time.desc()))
        return _read(row) if row else None

    async def to_clean_up(self, limit: int) -> Sequence[Trainer]:
        over = select(tables.trainers).where(_t.cleaned_up == false(), _t.end_time.is_not(None))
        return await self._trainers(over.order_by(_t.end_time).limit(limit))

    async def ended_since(self, time: datetime, limit: int) -> Sequence[Trainer]:
        found: list[Trainer] = []
        for cleaned_up in (false(), true()):  # one look into the index each
            over = select(tables.trainers).where(_t.cleaned_up == cleaned_up, _t.end_time >= time)
            found += await self._trainers(over.order_by(_t.end_time).limit(limit))
        return found

    async def last_ends(self, bases: Collection[TrainerBase]) -> dict[TrainerBase, datetime]:
        found: dict[TrainerBase, datetime] = {}
        for base in bases:
            where = [getattr(_t, name) == value for name, value in asdict(base).items()]
            over = select(_t.end_time).where(*where, _t.end_time.is_not(None)).order_by(_t.end_time.desc())
            if (row := await self._transaction.row(over)) is not None:
                found[base] = row.end_time
        return found

    async def open_attempts(self, uids: Collection[str]) -> Sequence[Attempt]:
        found: list[Attempt] = []
        for some in in_batches(uids):
            statement = select(tables.attempts).where(_a.trainer_uid.in_(some), _a.end_time.is_(None))
            found += [read_attempt(row) for row in await self._transaction.rows(statement)]
        return sorted(found, key=lambda attempt: (attempt.create_time, attempt.job_uid))

    async def attempts_ended_since(self, uid: str, time: datetime) -> Sequence[Attempt]:
        over = select(tables.attempts).where(_a.trainer_uid == uid, _a.end_time >= time)
        found = [read_attempt(row) for row in await self._transaction.rows(over)]
        return sorted(found, key=lambda attempt: (attempt.create_time, attempt.job_uid))

    async def job_counts(self, uids: Collection[str]) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for some in in_batches(uids):
            counted = select(_a.trainer_uid, func.count().label("jobs")).group_by(_a.trainer_uid)
            rows = await self._transaction.rows(counted.where(_a.trainer_uid.in_(some), _a.end_time.is_(None)))
            found.update({row.trainer_uid: row.jobs for row in rows})
        return found

    async def _trainers(self, statement: Select[Any]) -> Sequence[Trainer]:
        return [_read(row) for row in await self._transaction.rows(statement)]
