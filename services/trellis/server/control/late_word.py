"""What the cluster says of an attempt whose process has said that it ended, not knowing of what a worker of it died."""

from dataclasses import replace
from typing import Final

import structlog

from trellis.server.control.context import ControlContext
from trellis.server.domain.run_trouble import RunTrouble, TroubleCode
from trellis.server.domain.tuning_job import Attempt, EventLevel, JobEvent, JobState, TuningJob

_log = structlog.get_logger(__name__)
_ENDS: Final = frozenset({
    *(TroubleCode.OUT_OF_MEMORY, TroubleCode.EVICTED, TroubleCode.RECLAIMED, TroubleCode.NODE_LOST),
})  # fmt: skip
_TO_BE_TRIED: Final = frozenset({JobState.QUEUED, JobState.STARTING, JobState.PAUSED})


async def hear_late_word(context: ControlContext, attempt: Attempt, trouble: RunTrouble | None) -> None:
    """Write it down once, and where it was the memory have the next attempt take less."""
    if trouble is None or trouble.code not in _ENDS or trouble.message in attempt.outcome:
        return
    async with context.units() as unit:
        job = await unit.jobs.get_by_uid(attempt.job_uid, for_update=True)
        present = await unit.jobs.get_attempt(attempt.job_uid, attempt.number)
        if job is None or present is None or trouble.message in present.outcome:
            return
        await unit.jobs.save_attempt(replace(present, outcome=f"{present.outcome} {trouble.message}"))
        heard = f"Of attempt {attempt.number} the cluster says: {trouble.message}"
        if trouble.code is TroubleCode.OUT_OF_MEMORY and job.state in _TO_BE_TRIED:
            job = _with_less(context, job)
            heard = f"{heard} The job goes on with 1/{1 << job.memory_halvings} of the work in one pass."
        await unit.jobs.save(job, [JobEvent(context.now(), EventLevel.WARNING, heard)])
        await unit.commit()
    _log.warning("cluster_ended_run", tenant=attempt.tenant, run=attempt.submission_id, code=trouble.code.value)


def _with_less(context: ControlContext, job: TuningJob) -> TuningJob:
    halvings = min(job.memory_halvings + 1, context.settings.retry.max_memory_halvings)
    return replace(job, memory_halvings=halvings, revision=job.revision + 1)
