"""What is settled of a job once the report on its data is there: the settings that rules choose, and its estimate."""

from dataclasses import replace
from datetime import datetime

from trellis.server.app.auto_settings import ReportedData, reported_data, resolved
from trellis.server.app.holds import hold
from trellis.server.app.job_estimate import MeasuredSpeed, estimate_of, measured_speed
from trellis.server.app.job_needs import JobNeeds
from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.tuning_job import JobState, TuningJob


async def with_facts(unit: UnitOfWork, job: TuningJob, needs: JobNeeds) -> TuningJob:
    """The job with what can be said of it by now; not saved."""
    data = await reported_data(unit, job.spec)
    return job if data is None else settled(job, data, needs, await measured_speed(unit, job.spec.base_model, needs))


def settled(job: TuningJob, data: ReportedData, needs: JobNeeds, speed: MeasuredSpeed | None) -> TuningJob:
    """The job with all its settings chosen, and its estimate; not saved."""
    spec = resolved(job.spec, data)
    return replace(job, spec=spec, estimate=estimate_of(spec, data, needs, speed))


async def prepare(unit: UnitOfWork, job: TuningJob, needs: JobNeeds, now: datetime) -> TuningJob | None:
    """The queued job with all its settings chosen, saved, and what it is estimated to take held; None while that can't
    be, or when it left the queue.
    """
    if not job.spec.auto and job.estimate is not None:
        return job
    present = await unit.jobs.get_by_uid(job.uid, for_update=True)
    if present is None or present.state is not JobState.QUEUED:
        return None
    prepared = await with_facts(unit, present, needs)
    if prepared.spec.auto:
        return None
    if prepared == present:
        return present
    saved = await unit.jobs.save(prepared)
    await hold(unit, saved, now)
    return saved
