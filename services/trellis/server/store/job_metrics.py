"""Jobs' metrics in the database: a row for each value of a step."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from sqlalchemy import Row, select

from trellis.server.app.ports import Page
from trellis.server.domain.tuning_job import MetricPoint
from trellis.server.store import tables
from trellis.server.store.pages import Keyset
from trellis.server.store.transaction import Rows

_m = tables.job_metrics.c
_BY_STEP = Keyset((_m.step,))


def _read(step: int, rows: Sequence[Row[Any]]) -> MetricPoint:
    values = {row.name: math.nan if row.value is None else row.value for row in rows}
    return MetricPoint(step, values, min(row.time for row in rows))


def _value_rows(uid: str, point: MetricPoint) -> list[dict[str, Any]]:
    return [
        {
            "job_uid": uid,
            "step": point.step,
            "name": name,
            "value": None if math.isnan(value) else value,
            "time": point.time,
        }
        for name, value in sorted(point.values.items())
    ]


class MetricRows(Rows):
    """The part of ports.TuningJobs about metrics."""

    async def add_metrics(self, uid: str, points: Sequence[MetricPoint]) -> None:
        rows = [row for point in points for row in _value_rows(uid, point)]
        await self._transaction.add_all(tables.job_metrics, rows)

    async def metrics(self, uid: str, limit: int, cursor: str | None) -> Page[MetricPoint]:
        steps = select(_m.step).where(_m.job_uid == uid).distinct()
        page = await self._transaction.page(_BY_STEP, steps, limit, cursor, lambda row: int(row.step))
        if not page.items:
            return Page([], None)
        between = _m.step.between(page.items[0], page.items[-1])
        rows = await self._transaction.rows(
            select(tables.job_metrics).where(_m.job_uid == uid, between).order_by(_m.step, _m.name)
        )
        return Page(
            [_read(step, list(values)) for step, values in groupby(rows, lambda row: int(row.step))], page.next_cursor
        )
