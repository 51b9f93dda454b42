"""What an attempt uses: said by its reports, and settled once, when it ends in whatever way."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from trellis.server.app.ports import UsageRecord
from trellis.server.domain.tuning_job import Attempt, TuningJob

_MOST = float(2**53)


@dataclass(frozen=True, slots=True)
class AttemptUsage:
    """What an attempt has used so far, in all."""

    trained_tokens: int = 0
    trainer_seconds: float = 0.0
    """Of a trainer of its own, or its share of the steps that it was part of."""


def with_usage(attempt: Attempt, usage: AttemptUsage | None) -> Attempt:
    """The attempt, with what it says that it has used; that never shrinks."""
    if usage is None:
        return attempt
    seconds = usage.trainer_seconds if math.isfinite(usage.trainer_seconds) else 0.0
    return replace(
        attempt,
        used_tokens=max(attempt.used_tokens, min(usage.trained_tokens, int(_MOST))),
        used_seconds=max(attempt.used_seconds, min(seconds, _MOST)),
    )


def settled(job: TuningJob, attempt: Attempt, now: datetime) -> tuple[TuningJob, Sequence[UsageRecord]]:
    """The job with what its attempt, which ends now, has used, and the records to add to the tenant's usage.

    The records' keys name the attempt, so that they count once.
    """
    used = {"training_tokens": float(attempt.used_tokens), "training_seconds": attempt.used_seconds}
    records = [
        UsageRecord(job.tenant, f"{job.uid}-{attempt.number}-{kind}", kind, quantity, job.name, now)
        for kind, quantity in used.items()
        if quantity
    ]
    total = replace(
        job,
        used_tokens=job.used_tokens + attempt.used_tokens,
        used_seconds=job.used_seconds + attempt.used_seconds,
    )
    return total, records
