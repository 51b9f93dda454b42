"""The marks of many rows in one look, for those who wait."""

from collections.abc import Collection, Mapping

from sqlalchemy import exists, select

from trellis.server.domain.marks import JobMark, TrainerMark
from trellis.server.store import tables
from trellis.server.store.transaction import Rows

_j = tables.tuning_jobs.c
_t = tables.trainers.c
_a = tables.attempts.c


class JobMarkRows(Rows):
    """The part of ports.TuningJobs about marks."""

    async def marks(self, uids: Collection[str]) -> Mapping[str, JobMark]:
        statement = select(_j.uid, _j.state, _j.event_count, _j.log_size).where(_j.uid.in_(uids))
        rows = await self._transaction.rows(statement)
        return {row.uid: JobMark(row.state, row.event_count, row.log_size) for row in rows}


class TrainerMarkRows(Rows):
    """The part of ports.Trainers about marks."""

    async def marks(self, uids: Collection[str]) -> Mapping[str, TrainerMark]:
        given = exists().where(_a.trainer_uid == _t.uid, _a.end_time.is_(None), _a.start_time.is_(None))
        statement = select(_t.uid, _t.state, given.label("given")).where(_t.uid.in_(uids))
        rows = await self._transaction.rows(statement)
        return {row.uid: TrainerMark(row.state, row.given) for row in rows}
