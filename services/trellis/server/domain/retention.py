"""Which of a job's checkpoints are kept: the newest ones, the best one, and pinned ones."""

import math
from collections.abc import Iterable, Sequence

from trellis.server.domain.tuning_job import Checkpoint
from trellis.spec import KEPT_CHECKPOINTS


def best_of(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """The one with the least held-out loss, the earliest of equal ones; None if that was measured of none."""
    measured = [one for one in checkpoints if one.valid_loss is not None and math.isfinite(one.valid_loss)]
    return min(measured, key=lambda one: (one.valid_loss, one.step), default=None)


def surplus(checkpoints: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Those that nobody needs any more."""
    newest = sorted(checkpoints, key=lambda one: one.step)[-KEPT_CHECKPOINTS:]
    kept = {one.step for one in newest} | {one.step for one in checkpoints if one.pinned}
    best = best_of(checkpoints)
    return [one for one in checkpoints if one.step not in kept and one is not best]
