"""What the ledger holds for jobs: set aside from an estimate, settled when an attempt ends, released when the job does.

Whoever calls these has locked the job, which is read for update or is being made.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from trellis.server.app.attempt_usage import measured
from trellis.server.app.ledger_reading import Sums
from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.ledger import EntryKind, LedgerEntry, Meter
from trellis.server.domain.prices import Prices
from trellis.server.domain.tuning_job import Attempt, Estimate, TuningJob

_LEAST_PART = 0.1
"""Of its estimate a job that goes on holds at least so much, however far it has come: it may be slower than foreseen."""
_WORDS: Mapping[Meter, str] = {Meter.ACCELERATOR_MILLISECONDS: "seconds", Meter.TRAINED_TOKENS: "tokens"}


def estimated(estimate: Estimate | None) -> Sums:
    """What a job takes by its estimate; nothing where there is none."""
    if estimate is None:
        return {}
    sums = {
        Meter.ACCELERATOR_MILLISECONDS: math.ceil(estimate.accelerator_seconds * 1000),
        Meter.TRAINED_TOKENS: estimate.trained_tokens,
    }
    return {meter: quantity for meter, quantity in sums.items() if quantity > 0}


async def hold_anew(unit: UnitOfWork, job: TuningJob, now: datetime) -> None:
    """Hold what a job is estimated to take that is being made, for which nothing can be held yet."""
    entries = [
        _entry(job, EntryKind.HOLD, meter, whole, _moment(job, "hold", meter, now, 0), now)
        for meter, whole in estimated(job.estimate).items()
    ]
    if entries:
        await unit.ledger.append(entries)


async def hold(unit: UnitOfWork, job: TuningJob, now: datetime) -> None:
    """Hold what the job is estimated to take from here on, as far as it has come.

    Called when its estimate is known or has changed, and when it is to go on after an attempt. What
    is held already is counted; a job that has not begun holds its estimate exactly.
    """
    held = await unit.ledger.held(job.uid)
    left = part_left(job)
    entries: list[LedgerEntry] = []
    for meter, whole in estimated(job.estimate).items():
        more = math.ceil(whole * left) - held.get(meter, 0)
        if more > 0:
            entries.append(
                _entry(job, EntryKind.HOLD, meter, more, _moment(job, "hold", meter, now, held.get(meter, 0)), now)
            )
        elif more < 0 and job.attempt_count == 0:
            entries.append(
                _entry(job, EntryKind.RELEASE, meter, -more, _moment(job, "release", meter, now, held[meter]), now)
            )
    await unit.ledger.append(entries)


async def extend(unit: UnitOfWork, job: TuningJob, held: Sums, more: Sums, now: datetime) -> None:
    """Hold more for a job than is held; whether its tenant's budgets allow it was asked before."""
    entries = [
        _entry(job, EntryKind.HOLD, meter, quantity, _moment(job, "extend", meter, now, held.get(meter, 0)), now)
        for meter, quantity in more.items()
        if quantity > 0
    ]
    await unit.ledger.append(entries)


async def settle(unit: UnitOfWork, job: TuningJob, attempt: Attempt, now: datetime, prices: Prices) -> TuningJob:
    """Write down what the attempt, which ends now, has used, and return the job with it. What it used beyond what was
    held is held first.
    """
    held = await unit.ledger.held(job.uid)
    base = job.spec.base_model
    entries: list[LedgerEntry] = []
    for meter, quantity in measured(attempt).items():
        word = _WORDS[meter]
        beyond = quantity - held.get(meter, 0)
        if beyond > 0:
            entries.append(_entry(job, EntryKind.HOLD, meter, beyond, f"{attempt.number}-beyond_{word}", now))
        entry = _entry(job, EntryKind.SETTLE, meter, quantity, f"{attempt.number}-training_{word}", now)
        entries.append(replace(entry, price_nanos=prices.of(meter, base)))
    await unit.ledger.append(entries)
    return replace(
        job,
        used_tokens=job.used_tokens + attempt.used_tokens,
        used_seconds=job.used_seconds + attempt.used_seconds,
    )


async def release(unit: UnitOfWork, job: TuningJob, now: datetime) -> None:
    """Free what is still held for the job, which has ended."""
    held = await unit.ledger.held(job.uid)
    entries = [
        _entry(job, EntryKind.RELEASE, meter, quantity, f"end-{_WORDS[meter]}", now) for meter, quantity in held.items()
    ]
    await unit.ledger.append(entries)


def part_left(job: TuningJob) -> float:
    """Of what the job was estimated to take, when its next attempt begins."""
    if job.attempt_count == 0 or not job.progress.total_steps:
        return 1.0
    done = min(1.0, job.progress.step / job.progress.total_steps)
    return max(1.0 - done, _LEAST_PART)


def _moment(job: TuningJob, word: str, meter: Meter, now: datetime, held: int) -> str:
    # The job is locked, and what it holds was read under that lock: this only tells one such entry from the others.
    return f"{job.attempt_count}-{word}-{now:%Y%m%dT%H%M%S.%f}-{held}-{_WORDS[meter]}"


def _entry(job: TuningJob, kind: EntryKind, meter: Meter, quantity: int, what: str, now: datetime) -> LedgerEntry:
    return LedgerEntry(
        tenant=job.tenant,
        key=f"{job.uid}-{what}",
        kind=kind,
        meter=meter,
        quantity=quantity,
        time=now,
        job_uid=job.uid,
        resource=job.name,
        base_model=job.spec.base_model,
    )
