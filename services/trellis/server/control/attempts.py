"""What the loops share about attempts: their names, and how one is ended."""

from datetime import datetime

from trellis.server.app.attempt_end import end_attempt
from trellis.server.app.authentication import secret_hash
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.tokens import attempt_token
from trellis.server.control.context import ControlContext
from trellis.server.domain.trainer import Trainer
from trellis.server.domain.tuning_job import Attempt, EndCause, JobError, TuningJob
from trellis.server.scheduler.capacity import Resources


def submission_id_for(installation: str, job_uid: str, number: int) -> str:
    """The name of the attempt's run on the cluster."""
    return f"trellis-{installation}-{job_uid}-{number}"


def new_attempt(
    context: ControlContext, job: TuningJob, now: datetime, trainer: Trainer | None = None, traceparent: str = ""
) -> Attempt:
    """The job's next attempt: a run of its own, or given to a trainer, whose run it shares."""
    number = job.attempt_count + 1
    settings = context.settings
    run = "" if trainer else submission_id_for(settings.installation, job.uid, number)
    # The seconds of a job that runs by itself are those of all its workers together.
    counted = Resources(trainer.cpus, trainer.gpus) if trainer else settings.needs.worker
    return Attempt(
        tenant=job.tenant,
        job_uid=job.uid,
        number=number,
        token_hash=secret_hash(attempt_token(settings.server_secret, job.uid, number)),
        submission_id=run,
        create_time=now,
        lease_expire_time=now + settings.start_timeout,
        trainer_uid=trainer.uid if trainer else "",
        accelerators=settings.needs.accelerators(counted),
        traceparent=traceparent,
    )


async def end_badly(
    unit: UnitOfWork,
    context: ControlContext,
    attempt: Attempt,
    error: JobError,
    *,
    cause: EndCause,
    unless_renewed: bool = False,
) -> bool:
    """End the attempt, unless it is over already, and move its job on; False if there was nothing to end.

    With `unless_renewed` it goes on if it has reported since `attempt` was read.
    """
    job = await unit.jobs.get_by_uid(attempt.job_uid, for_update=True)
    present = await unit.jobs.get_attempt(attempt.job_uid, attempt.number)
    if job is None or present is None or present.ended:
        return False
    if unless_renewed and present.lease_expire_time != attempt.lease_expire_time:
        return False
    settings = context.settings
    await end_attempt(
        unit,
        job,
        present,
        error,
        cause=cause,
        now=context.now(),
        policy=settings.retry,
        prices=settings.prices,
    )
    return True
