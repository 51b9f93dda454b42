"""Jobs' checkpoints in the database."""

import math
from dataclasses import asdict
from typing import Any

from sqlalchemy import Row, delete, select

from trellis.server.app.ports import Page
from trellis.server.domain.tuning_job import Checkpoint
from trellis.server.store import tables
from trellis.server.store.live_jobs import LIVE
from trellis.server.store.pages import Keyset
from trellis.server.store.rows import named
from trellis.server.store.transaction import Rows
from trellis.spec import TrainSpec

_c = tables.checkpoints.c
_STARTS_FROM_SOMETHING = '%"initial_key":"tenants/%'
_BY_STEP = Keyset((_c.step,))


def _read(row: Row[Any]) -> Checkpoint:
    return Checkpoint(**{key: value for key, value in named(row).items() if key != "job_uid"})


class CheckpointRows(Rows):
    """The part of ports.TuningJobs about checkpoints."""

    async def add_checkpoint(self, uid: str, checkpoint: Checkpoint) -> None:
        await self._transaction.put(tables.checkpoints, {"job_uid": uid, **asdict(checkpoint)})

    async def checkpoints(self, uid: str, limit: int, cursor: str | None) -> Page[Checkpoint]:
        statement = select(tables.checkpoints).where(_c.job_uid == uid)
        return await self._transaction.page(_BY_STEP, statement, limit, cursor, _read)

    async def latest_checkpoint(self, uid: str) -> Checkpoint | None:
        newest = select(tables.checkpoints).where(_c.job_uid == uid).order_by(_c.step.desc())
        row = await self._transaction.row(newest)
        return _read(row) if row else None

    async def best_checkpoint(self, uid: str) -> Checkpoint | None:
        finite = (_c.valid_loss > -math.inf, _c.valid_loss < math.inf)  # PostgreSQL holds NaN for the greatest of all
        measured = select(tables.checkpoints).where(_c.job_uid == uid, *finite)
        row = await self._transaction.row(measured.order_by(_c.valid_loss, _c.step))
        return _read(row) if row else None

    async def get_checkpoint(self, uid: str, step: int) -> Checkpoint | None:
        row = await self._transaction.row(select(tables.checkpoints).where(_c.job_uid == uid, _c.step == step))
        return _read(row) if row else None

    async def checkpoint_keys_in_use(self, tenant: str) -> frozenset[str]:
        j, e = tables.tuning_jobs.c, tables.exports.c
        starting = select(j.spec).where(j.tenant == tenant, j.state.in_(LIVE), j.spec.like(_STARTS_FROM_SOMETHING))
        jobs = await self._transaction.rows(starting)
        making = select(e.adapter_key).where(e.tenant == tenant, e.end_time.is_(None))
        exports = await self._transaction.rows(making)
        return frozenset([*(TrainSpec.from_json(row.spec).initial_key for row in jobs), *(e[0] for e in exports)])

    async def delete_checkpoint(self, uid: str, step: int) -> None:
        await self._transaction.change(delete(tables.checkpoints).where(_c.job_uid == uid, _c.step == step))
