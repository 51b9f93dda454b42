"""What the loops share about attempts: their names, their tokens, and how one is ended."""

import hashlib
import hmac
from datetime import datetime

from trellis.server.app.attempt_end import end_attempt
from trellis.server.app.ports import UnitOfWork
from trellis.server.control.context import ControlContext
from trellis.server.domain.tuning_job import Attempt, EndCause, JobError, TuningJob


def token_for(secret: bytes, job_uid: str, number: int) -> str:
    """The attempt's token: derived, so that a server that dies between admitting and launching loses nothing."""
    mac = hmac.new(secret, f"attempt {job_uid} {number}".encode(), hashlib.sha256)
    return f"tra_{mac.hexdigest()}"


def submission_id_for(installation: str, job_uid: str, number: int) -> str:
    """The name of the attempt's run on the cluster."""
    return f"trellis-{installation}-{job_uid}-{number}"


def new_attempt(context: ControlContext, job: TuningJob, now: datetime) -> Attempt:
    """The job's next attempt."""
    number = job.attempt_count + 1
    settings = context.settings
    token = token_for(settings.server_secret, job.uid, number)
    return Attempt(
        tenant=job.tenant,
        job_uid=job.uid,
        number=number,
        token_hash=hashlib.sha256(token.encode()).hexdigest(),
        submission_id=submission_id_for(settings.installation, job.uid, number),
        create_time=now,
        lease_expire_time=now + settings.start_timeout,
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
    await end_attempt(unit, job, present, error, cause=cause, now=context.now(), policy=context.settings.retry)
    return True
