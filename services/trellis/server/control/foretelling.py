"""Holds what was foretold of a job's start, when it began to wait, against when it started."""

from collections.abc import Mapping
from datetime import datetime

from prometheus_client import Histogram

from trellis.server.control.context import ControlContext
from trellis.server.domain.board import Foretold
from trellis.server.domain.tuning_job import StartInterval

START_ERROR = Histogram(
    "trellis_job_start_error_seconds",
    "How much later than foretold jobs were admitted (sooner: below 0), by where that is to the interval: before, within, after.",
    ["against"],
    buckets=(-4 * 3600, -3600, -900, -300, -60, 0, 60, 300, 900, 3600, 4 * 3600, 24 * 3600),
)
for _against in ("before", "within", "after"):
    START_ERROR.labels(_against)


class Foretelling:
    """What was first said of each job that waits. A job that waits again, after a failure or a pause, is spoken of anew."""

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._told: Mapping[str, Foretold] | None = None

    async def told(self, now: datetime, starts: Mapping[str, StartInterval]) -> Mapping[str, Foretold]:
        """With what is said now, of the jobs that wait, added to what was said before; jobs that left are still in it."""
        before = await self._before()
        fresh = {uid: Foretold(now, start) for uid, start in starts.items() if uid not in before}
        return {**before, **fresh}

    async def fulfil(self, told: Mapping[str, Foretold], left: Mapping[str, Foretold]) -> None:
        """From now on this is what is said; those that `left` are measured, if they were admitted."""
        self._told = told
        for uid, foretold in left.items():
            admitted = await self._admit_time(uid)
            if admitted is not None and admitted >= foretold.time:
                START_ERROR.labels(_against_interval(foretold.start, admitted)).observe(
                    (admitted - foretold.start.expected).total_seconds()
                )

    async def _before(self) -> Mapping[str, Foretold]:
        if self._told is None:
            async with self._context.units(write=False) as unit:
                self._told = await unit.board.foretold()
        return self._told

    async def _admit_time(self, uid: str) -> datetime | None:
        """When the job's newest attempt was made."""
        async with self._context.units(write=False) as unit:
            job = await unit.jobs.get_by_uid(uid)
            attempt = await unit.jobs.get_attempt(uid, job.attempt_count) if job is not None else None
        return attempt.create_time if attempt is not None else None


def _against_interval(start: StartInterval, admitted: datetime) -> str:
    if admitted < start.earliest:
        return "before"
    return "after" if admitted > start.latest else "within"
