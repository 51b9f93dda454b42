"""The queue for those who explain it: as the scheduler sees it, without changing anything."""

from trellis.server.app.outlooks import QueueLook
from trellis.server.control.context import ControlContext
from trellis.server.control.readiness import JobDatasetsWatch
from trellis.server.control.snapshot import take_snapshot
from trellis.server.domain.tuning_job import JobState

_QUEUE = 10_000


class QueueView:
    """Looks at the queue in one reading transaction."""

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._datasets = JobDatasetsWatch()

    async def look(self) -> QueueLook:
        """The queue now, without jobs whose data can't be trained on: those fail as soon as the scheduler sees them."""
        async with self._context.units(write=False) as unit:
            jobs = await unit.jobs.in_states([JobState.QUEUED], _QUEUE)
            self._datasets.forget()
            found = await self._datasets.look(unit, jobs)
            queued = [(job, found[job.uid].ready) for job in jobs if not found[job.uid].obstacle]
            taken = await take_snapshot(unit, self._context, queued)
        return QueueLook(taken.snapshot, {job.uid: job.name for job, _ in queued})
