"""What an attempt's process says: that it began, how far it has come, how it failed. Its end is in completion.py."""

from dataclasses import dataclass, field, replace
from datetime import datetime

from trellis.errors import Reason, error_for
from trellis.names import DatasetVersionName
from trellis.server.app import keys
from trellis.server.app.attempt_end import end_attempt
from trellis.server.app.attempt_usage import AttemptUsage, with_usage
from trellis.server.app.authentication import secret_hash
from trellis.server.app.context import Context
from trellis.server.app.fields import printable
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.tickets import check_nonce, check_unused
from trellis.server.app.tokens import attempt_token
from trellis.server.app.traces import trace_start
from trellis.server.domain.caller import AttemptRef, Caller
from trellis.server.domain.tuning_job import (
    Attempt,
    Checkpoint,
    EndCause,
    EventLevel,
    JobError,
    JobEvent,
    JobState,
    TuningJob,
)

MAX_MESSAGE = 2000
COMPLETED = "completed"
"""The outcome of an attempt that ended well; the reaper knows it by this."""
_HEARTBEATS_A_LEASE = 3


@dataclass(frozen=True, slots=True)
class Process:
    """What a process says of itself."""

    code_version: str = ""
    hostname: str = ""
    pid: int = 0
    nonce: str = field(default="", repr=False)
    """What it made at random, if it was started with a ticket."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """An attempt's work; keys are of the object store at `store_url`."""

    tuning_job: str
    attempt: int
    train_spec_json: str
    store_url: str
    training_key: str
    validation_key: str
    checkpoint_prefix: str
    adapter_prefix: str
    resume_key: str
    resume_step: int
    heartbeat_seconds: float
    next_report: int
    replay_key: str = ""
    initial_key: str = ""
    memory_halvings: int = 0
    """How many times the work of one pass is to be halved."""
    model_prefix: str = ""
    token: str = field(default="", repr=False)
    """For further calls of a process that began with a ticket."""
    traceparent: str = ""
    """What its own spans belong under."""
    job_create_time: datetime | None = None


async def start_attempt(context: Context, caller: Caller, process: Process) -> Assignment:
    """The attempt's process is there; the job is RUNNING from now on. Calling again gives the same work."""
    check_nonce(caller, process.nonce)
    token = ""
    async with context.units() as unit:
        job, attempt = await current_attempt(unit, caller)
        if caller.by_ticket:
            token = attempt_token(context.settings.server_secret, job.uid, attempt.number, process.nonce)
        begins = attempt.start_time is None
        if begins:
            job, attempt = await _begin(context, unit, job, attempt, process)
            attempt = replace(attempt, token_hash=secret_hash(token)) if token else attempt
        else:
            attempt = renewed(context, attempt)
        if token:
            check_unused(token, attempt.token_hash)
        await unit.jobs.save_attempt(attempt)
        checkpoint = await unit.jobs.latest_checkpoint(job.uid)
        await unit.commit()
    if begins:
        trace_start(job, attempt)
    return replace(_assignment(context, job, attempt, checkpoint), token=token)


async def fail_attempt(
    context: Context, caller: Caller, error: JobError, cause: EndCause, usage: AttemptUsage | None = None
) -> None:
    """The attempt ended without an adapter, by an error or because it was asked to; the job is tried again or ends."""
    async with context.units() as unit:
        job, attempt = await current_attempt(unit, caller)
        await end_attempt(
            unit,
            job,
            with_usage(attempt, usage),
            replace(error, message=printable(error.message, MAX_MESSAGE)),
            cause=cause,
            now=context.now(),
            policy=context.settings.retry,
            prices=context.settings.prices,
        )
        await unit.commit()


async def current_attempt(unit: UnitOfWork, caller: Caller) -> tuple[TuningJob, Attempt]:
    """The caller's attempt and its job, locked; raises ATTEMPT_FENCED unless it is the one that counts."""
    ref = reference(caller)
    job = await unit.jobs.get_by_uid(ref.job_uid, for_update=True)
    attempt = await unit.jobs.get_attempt(ref.job_uid, ref.attempt)
    if job is None or attempt is None or attempt.ended or job.ended or job.attempt_count != attempt.number:
        message = f"Attempt {ref.attempt} is over: another one has begun, or the job has ended. Stop."
        raise error_for(Reason.ATTEMPT_FENCED, message)
    return job, attempt


def reference(caller: Caller) -> AttemptRef:
    """The attempt that calls."""
    assert caller.attempt is not None, "only attempts may call this"
    return caller.attempt


def renewed(context: Context, attempt: Attempt) -> Attempt:
    """The attempt with a lease from now on."""
    return replace(attempt, lease_expire_time=max(attempt.lease_expire_time, _lease_end(context)))


def _lease_end(context: Context) -> datetime:
    return context.now() + context.settings.lease


async def _begin(
    context: Context, unit: UnitOfWork, job: TuningJob, attempt: Attempt, process: Process
) -> tuple[TuningJob, Attempt]:
    if job.state is not JobState.STARTING:
        raise error_for(Reason.ATTEMPT_FENCED, f"The job is {job.state}; there is nothing to start. Stop.")
    now = context.now()
    where = f" on {printable(process.hostname, 100)}" if process.hostname else ""
    event = JobEvent(now, EventLevel.INFO, f"Attempt {attempt.number} runs{where}.", state=JobState.RUNNING)
    moved = await unit.jobs.save(job.moved(JobState.RUNNING, now), [event])
    # Not renewed but set: the time that an attempt has to start is far longer than a lease.
    return moved, replace(attempt, start_time=now, lease_expire_time=_lease_end(context))


def _assignment(context: Context, job: TuningJob, attempt: Attempt, checkpoint: Checkpoint | None) -> Assignment:
    spec = job.spec
    return Assignment(
        tuning_job=job.name,
        attempt=attempt.number,
        train_spec_json=spec.to_json(),
        store_url=context.store.url,
        training_key=_file_key(spec.training_dataset),
        validation_key=_file_key(spec.validation_dataset) if spec.validation_dataset else "",
        checkpoint_prefix=keys.checkpoint_prefix(job.tenant, job.uid),
        adapter_prefix=keys.attempt_adapter_prefix(job.tenant, job.uid, attempt.number),
        resume_key=checkpoint.key if checkpoint else "",
        resume_step=checkpoint.step if checkpoint else 0,
        heartbeat_seconds=context.settings.lease.total_seconds() / _HEARTBEATS_A_LEASE,
        next_report=attempt.next_report,
        replay_key=_file_key(spec.replay_dataset) if spec.replay_dataset else "",
        initial_key=spec.initial_key,
        memory_halvings=job.memory_halvings,
        model_prefix=keys.attempt_model_prefix(job.tenant, job.uid, attempt.number),
        traceparent=attempt.traceparent,
        job_create_time=job.create_time,
    )


def _file_key(version: str) -> str:
    name = DatasetVersionName.parse(version)
    return keys.version_key(name.tenant, name.dataset, name.version)
