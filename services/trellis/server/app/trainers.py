"""What a shared trainer says: that it is there, what it has room for, that it would leave; and what it is given."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

from trellis.errors import Reason, error_for
from trellis.server.app.attempts import Process
from trellis.server.app.authentication import secret_hash
from trellis.server.app.context import Context
from trellis.server.app.fields import printable
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.tickets import check_nonce, check_unused
from trellis.server.app.tokens import attempt_token, trainer_token
from trellis.server.domain.caller import Caller
from trellis.server.domain.marks import TrainerMark
from trellis.server.domain.trainer import Room, Trainer, TrainerBase, TrainerState
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.domain.tuning_job import Attempt

LEFT = "It had nothing to do, and left."
"""The outcome of a trainer that ended well; the reaper knows it by this."""
_HEARTBEATS_A_LEASE = 3


@dataclass(frozen=True, slots=True)
class TrainerSetup:
    """What a trainer is to do."""

    trainer: str
    """Its uid."""
    base: TrainerBase
    store_url: str
    heartbeat_seconds: float
    workers: int
    options: TrainerOptions
    token: str = field(default="", repr=False)
    """For further calls of a process that began with a ticket."""


@dataclass(frozen=True, slots=True)
class TrainerWord:
    """What a trainer says of itself when it asks for attempts."""

    room: Room | None = None
    """None while its base is being loaded."""
    jobs: int = 0
    tokens_per_second: float = 0.0
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ClaimedAttempt:
    """An attempt to begin with, by its own token."""

    token: str
    tuning_job: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a trainer is given."""

    attempts: Sequence[ClaimedAttempt]
    drain: bool
    """Whether nothing further will be given."""


async def start_trainer(context: Context, caller: Caller, process: Process) -> TrainerSetup:
    """The trainer's process is there. Calling again gives the same."""
    check_nonce(caller, process.nonce)
    token = ""
    async with context.units() as unit:
        trainer = await _current(unit, caller)
        if caller.by_ticket:
            token = trainer_token(context.settings.server_secret, trainer.uid, process.nonce)
        if trainer.start_time is None:
            # Not renewed but set: the time that a process has to start is far longer than a lease.
            lease_end = context.now() + context.settings.lease
            hostname = printable(process.hostname, 100)
            trainer = replace(trainer, start_time=context.now(), lease_expire_time=lease_end, hostname=hostname)
            trainer = replace(trainer, token_hash=secret_hash(token)) if token else trainer
        if token:
            check_unused(token, trainer.token_hash)
        await unit.trainers.save(_renewed(context, trainer))
        await unit.commit()
    heartbeat = _heartbeat(context).total_seconds()
    options = context.settings.trainers
    return TrainerSetup(trainer.uid, trainer.base, context.store.url, heartbeat, trainer.workers, options, token)


async def claim_attempts(context: Context, caller: Caller, word: TrainerWord) -> Claimed:
    """The attempts that the trainer was given and has not begun with; waits a while if there are none."""
    claimed = await _hear(context, caller, word)
    wait = min(timedelta(seconds=max(0.0, word.wait_seconds)), _heartbeat(context))
    deadline = context.now() + wait
    # A trainer that still has jobs can't leave yet: it hears of it when it has waited.
    while not claimed.attempts and not (claimed.drain and not word.jobs) and context.now() < deadline:
        await context.trainers.news(caller.trainer_uid, partial(_has_news, word), deadline)
        claimed = await _look(context, caller, is_loaded=word.room is not None)
    return claimed


def _has_news(word: TrainerWord, mark: TrainerMark | None) -> bool:
    if mark is None or mark.state is TrainerState.ENDED:
        return True
    may_leave = mark.state is TrainerState.DRAINING and not word.jobs
    return may_leave or (mark.has_attempts and word.room is not None)


async def leave_trainer(context: Context, caller: Caller) -> bool:
    """Whether the trainer, which has nothing to do, is over now; not if it was given an attempt meanwhile."""
    async with context.units() as unit:
        trainer = await _current(unit, caller)  # locked: admission gives attempts under the same lock
        if await unit.trainers.open_attempts([trainer.uid]):
            return False
        await unit.trainers.save(trainer.ended(context.now(), LEFT))
        await unit.commit()
    return True


async def list_trainers(context: Context) -> Sequence[tuple[Trainer, int]]:
    """All trainers that are not over, oldest first, each with the number of jobs that it was given and that go on."""
    async with context.units(write=False) as unit:
        trainers = await unit.trainers.live()
        attempts = await unit.trainers.open_attempts([trainer.uid for trainer in trainers])
    jobs = Counter(attempt.trainer_uid for attempt in attempts)
    return [(trainer, jobs[trainer.uid]) for trainer in trainers]


async def _hear(context: Context, caller: Caller, word: TrainerWord) -> Claimed:
    async with context.units() as unit:
        trainer = await _current(unit, caller)
        attempts = await unit.trainers.open_attempts([trainer.uid])
        if word.room is not None and trainer.room is None:
            await _begin_waiting(context, unit, attempts)
        heard = _heard(_renewed(context, trainer), word, context.now(), is_busy=bool(word.jobs or attempts))
        await unit.trainers.save(heard)
        claimed = await _claimed(context, unit, heard, attempts if word.room is not None else ())
        await unit.commit()
    return claimed


async def _begin_waiting(context: Context, unit: UnitOfWork, attempts: Sequence[Attempt]) -> None:
    """From now on attempts may be begun with: the time that their trainer took to load its base is not theirs."""
    expire = context.now() + context.settings.start_timeout
    for attempt in attempts:
        # The job's row guards its attempts.
        if await unit.jobs.get_by_uid(attempt.job_uid, for_update=True) is None:
            continue
        present = await unit.jobs.get_attempt(attempt.job_uid, attempt.number)
        if present is not None and not present.ended and present.start_time is None:
            await unit.jobs.save_attempt(replace(present, lease_expire_time=expire))


def _heard(trainer: Trainer, word: TrainerWord, now: datetime, *, is_busy: bool) -> Trainer:
    said = replace(
        trainer,
        job_count=word.jobs,
        tokens_per_second=word.tokens_per_second,
        busy_time=now if is_busy else trainer.busy_time,
    )
    if word.room is None:
        return said
    state = TrainerState.RUNNING if said.state is TrainerState.STARTING else said.state
    return replace(said, state=state, room=word.room, room_time=now)


async def _look(context: Context, caller: Caller, *, is_loaded: bool) -> Claimed:
    async with context.units(write=False) as unit:
        trainer = _checked(await unit.trainers.get(caller.trainer_uid))
        attempts = await unit.trainers.open_attempts([trainer.uid]) if is_loaded else ()
        return await _claimed(context, unit, trainer, attempts)


async def _claimed(context: Context, unit: UnitOfWork, trainer: Trainer, attempts: Sequence[Attempt]) -> Claimed:
    found = []
    for attempt in attempts:
        job = await unit.jobs.get_by_uid(attempt.job_uid) if attempt.start_time is None else None
        if job is not None:
            token = attempt_token(context.settings.server_secret, job.uid, attempt.number)
            found.append(ClaimedAttempt(token, job.name, attempt.number))
    return Claimed(found, drain=not trainer.takes_jobs)


async def _current(unit: UnitOfWork, caller: Caller) -> Trainer:
    """The trainer that calls, locked; raises ATTEMPT_FENCED if it is over."""
    return _checked(await unit.trainers.get(caller.trainer_uid, for_update=True))


def _checked(trainer: Trainer | None) -> Trainer:
    if trainer is None or trainer.is_over:
        raise error_for(Reason.ATTEMPT_FENCED, "The trainer is over: its jobs go on elsewhere. Stop.")
    return trainer


def _renewed(context: Context, trainer: Trainer) -> Trainer:
    lease_end = context.now() + context.settings.lease
    return replace(trainer, lease_expire_time=max(trainer.lease_expire_time, lease_end))


def _heartbeat(context: Context) -> timedelta:
    return context.settings.lease / _HEARTBEATS_A_LEASE
