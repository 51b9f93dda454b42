"""What would let a job start sooner: the scheduler is asked again with the job changed, and only what it grants is told.

A job is changed by submitting it again, so that it is taken to be as old as the snapshot.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

from trellis.server.domain.tuning_job import QueueCode
from trellis.server.scheduler.capacity import Resources
from trellis.server.scheduler.outlook import Outlook
from trellis.server.scheduler.policy import would_start
from trellis.server.scheduler.predict import predict
from trellis.server.scheduler.snapshot import Alone, QueuedJob, Shared

_LOOKS = 60_000
"""So many jobs are looked at for all the alternatives of one job."""
_MOST = 5
_SHORT_QUEUE = 150
"""Only then are starts predicted of what would not start now: that costs as much as to decide many times."""
_PREDICTED = 3
"""So many starts are predicted at the most."""
_SOONER = 0.8
"""What does not start now must wait at most this part of the predicted wait."""
_LEAST_TOKENS = 256
_LEAST_RANK = 4


class Change(StrEnum):
    """What of a job is changed."""

    WORKERS = "WORKERS"
    RANK = "RANK"
    CONTEXT_LENGTH = "CONTEXT_LENGTH"
    BASE_MODEL = "BASE_MODEL"
    PRIORITY = "PRIORITY"


@dataclass(frozen=True, slots=True)
class Alternative:
    """A change with which a job would start sooner."""

    change: Change
    value: str
    message: str
    """As a sentence."""
    start: datetime


@dataclass(frozen=True, slots=True)
class _Candidate:
    change: Change
    value: str
    said: str
    job: QueuedJob


def alternatives(outlook: Outlook, uid: str) -> tuple[Alternative, ...]:
    """The changes that let the job start sooner, the best first; of each kind the smallest that does."""
    job, looks, predictions = outlook.jobs[uid], _LOOKS, _PREDICTED
    code = outlook.decisions.waiting[uid].code
    if code in {QueueCode.DATASET_VALIDATING, QueueCode.RETRY_BACKOFF, QueueCode.PREEMPTING}:
        return ()
    found: dict[Change, Alternative] = {}
    for candidate in _candidates(outlook, job):
        looks -= len(outlook.snapshot.queued) + 1
        if looks < 0:
            break
        if candidate.change in found:
            continue
        alternative = _now(outlook, candidate)
        if alternative is None and predictions and len(outlook.snapshot.queued) <= _SHORT_QUEUE:
            predictions -= 1
            alternative = _later(outlook, candidate)
        if alternative is not None:
            found[candidate.change] = alternative
    return tuple(sorted(found.values(), key=lambda one: one.start)[:_MOST])


def _now(outlook: Outlook, candidate: _Candidate) -> Alternative | None:
    """If the changed job would start at once."""
    if not would_start(outlook.snapshot, candidate.job):
        return None
    message = f"{candidate.said} it would start now."
    return Alternative(candidate.change, candidate.value, message, outlook.snapshot.now)


def _later(outlook: Outlook, candidate: _Candidate) -> Alternative | None:
    """If the changed job is likely to start well before the job as it is."""
    snapshot = outlook.snapshot
    queued = tuple(candidate.job if job.uid == candidate.job.uid else job for job in snapshot.queued)
    changed = predict(replace(snapshot, queued=queued)).get(candidate.job.uid)
    present = outlook.predictions.get(candidate.job.uid)
    if changed is None:
        return None
    if present is not None and changed.start - snapshot.now > (present.start - snapshot.now) * _SOONER:
        return None
    instead = f" instead of {_clock(present.start)}" if present else ""
    message = f"{candidate.said} it would be likely to start at {_clock(changed.start)}{instead}."
    return Alternative(candidate.change, candidate.value, message, changed.start)


def _candidates(outlook: Outlook, job: QueuedJob) -> Iterator[_Candidate]:
    """The changes to try, of each kind the smallest first."""
    now = outlook.snapshot.now
    again = replace(job, create_time=now, queue_time=None)
    yield from _priority(outlook, again)
    if isinstance(job.work, Alone):
        yield from _fewer_workers(again, job.work)
    else:
        yield from _shorter(again, job.work)
        yield from _lower_rank(again, job.work)
        yield from _warm_bases(outlook, again, job.work)


def _priority(outlook: Outlook, job: QueuedJob) -> Iterator[_Candidate]:
    most = outlook.snapshot.share_of(job.tenant).quota.highest_priority
    if most > job.priority:
        said = f"With priority {most} instead of {job.priority}"
        yield _Candidate(Change.PRIORITY, str(most), said, replace(job, priority=most))


def _fewer_workers(job: QueuedJob, work: Alone) -> Iterator[_Candidate]:
    for workers in _halves(work.workers, 1):
        part = workers / work.workers
        needs = Resources(work.needs.cpus * part, work.needs.gpus * part)
        seconds = None if job.seconds is None else job.seconds / part
        said = f"With {workers} worker{'' if workers == 1 else 's'} instead of {work.workers}"
        changed = replace(job, work=Alone(needs, workers), seconds=seconds)
        yield _Candidate(Change.WORKERS, str(workers), said, changed)


def _shorter(job: QueuedJob, work: Shared) -> Iterator[_Candidate]:
    for tokens in _halves(work.line_tokens, _LEAST_TOKENS):
        said = f"With a context_length of {tokens} instead of {work.line_tokens}"
        yield _Candidate(Change.CONTEXT_LENGTH, str(tokens), said, replace(job, work=replace(work, line_tokens=tokens)))


def _lower_rank(job: QueuedJob, work: Shared) -> Iterator[_Candidate]:
    for rank in _halves(work.rank, _LEAST_RANK):
        said = f"With a rank of {rank} instead of {work.rank}"
        yield _Candidate(Change.RANK, str(rank), said, replace(job, work=replace(work, rank=rank)))


def _warm_bases(outlook: Outlook, job: QueuedJob, work: Shared) -> Iterator[_Candidate]:
    for base in sorted(outlook.snapshot.warm - {work.base}, key=lambda base: base.base_model):
        if base.base_model != work.base.base_model and base.precision == work.base.precision:
            said = f"On {base.base_model}, of which a trainer runs,"
            yield _Candidate(Change.BASE_MODEL, base.base_model, said, replace(job, work=replace(work, base=base)))


def _halves(value: int, least: int) -> Iterator[int]:
    while value // 2 >= least:
        value //= 2
        yield value


def _clock(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
