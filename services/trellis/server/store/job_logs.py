"""Jobs' logs in the database, as pieces of text."""

from collections.abc import Sequence

from sqlalchemy import select, update

from trellis.errors import NotFound
from trellis.server.store import tables
from trellis.server.store.transaction import Rows

_l = tables.job_logs.c
_j = tables.tuning_jobs.c


class LogRows(Rows):
    """The part of ports.TuningJobs about logs. Offsets count characters."""

    async def append_log(self, uid: str, attempt: int, text: str) -> None:
        if not text:
            return
        # Moving the end locks the job's row: pieces of one job become visible in the order of their offsets.
        end = await self._transaction.change_returning(
            update(tables.tuning_jobs)
            .where(_j.uid == uid)
            .values(log_size=_j.log_size + len(text))
            .returning(_j.log_size)
        )
        if end is None:
            raise NotFound.for_resource(f"The job {uid}")
        self._transaction.touched.add(uid)
        piece = {"job_uid": uid, "end_offset": end, "attempt": attempt, "text": text}
        await self._transaction.append(tables.job_logs, [piece])

    async def read_log(self, uid: str, offset: int, limit: int) -> Sequence[tuple[int, int, str]]:
        after = select(tables.job_logs).where(_l.job_uid == uid, _l.end_offset > offset)
        rows = await self._transaction.rows(after.order_by(_l.end_offset).limit(limit))
        return [
            (row.end_offset, row.attempt, row.text[max(0, offset - row.end_offset + len(row.text)) :]) for row in rows
        ]
