"""What an attempt uses: said by its reports, and settled once, when it ends in whatever way."""

import math
from dataclasses import dataclass, replace

from trellis.server.app.ledger_reading import Sums
from trellis.server.domain.ledger import Meter
from trellis.server.domain.tuning_job import Attempt

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


def measured(attempt: Attempt) -> Sums:
    """What the attempt has used, in the ledger's units; meters of which it used nothing are left out."""
    sums = {
        Meter.ACCELERATOR_MILLISECONDS: min(round(attempt.used_seconds * attempt.accelerators * 1000), int(_MOST)),
        Meter.TRAINED_TOKENS: attempt.used_tokens,
    }
    return {meter: quantity for meter, quantity in sums.items() if quantity > 0}
