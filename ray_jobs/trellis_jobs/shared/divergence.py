"""Stops a job whose numbers are none, before they reach its weights."""

import math
from collections.abc import Sequence
from typing import Final

from trellis.errors import Reason
from trellis_jobs.failure import JobFailedError
from trellis_jobs.methods.objective import Items

_SHOWN_LINES: Final = 8
_SMALL_LOSS: Final = 1e-6
"""Under this a model has learnt its lines by heart, and gradients may well be zero."""


def refuse_divergence(loss: float, norm: float, step: int, items: Items, batch: Sequence[int]) -> None:
    """Raise JobFailedError (TRAINING_DIVERGED) if loss or gradient norm of a step are such that nothing is learnt."""
    if not math.isfinite(loss):
        what = f"The loss of step {step} is {loss}"
    elif not math.isfinite(norm):
        what = f"The gradients of step {step} are not finite"
    elif norm == 0.0 and loss > _SMALL_LOSS:
        what = f"The gradients of step {step} are all zero, so nothing is learnt"
    else:
        return
    message = f"{what}. It learnt from {_lines(items, batch)}. Lower learning_rate, or look at these lines."
    raise JobFailedError(Reason.TRAINING_DIVERGED, message)


def refuse_unmeasured(loss: float) -> None:
    """Raise JobFailedError (TRAINING_DIVERGED) if the loss of held-out lines says nothing."""
    if not math.isfinite(loss):
        message = f"The loss of the held-out lines is {loss}, by which no weights can be judged."
        raise JobFailedError(Reason.TRAINING_DIVERGED, f"{message} Lower learning_rate, or look at these lines.")


def _lines(items: Items, batch: Sequence[int]) -> str:
    shown = [items.line(index) for index in batch[:_SHOWN_LINES]]
    own = ", ".join(str(line) for line in shown if line > 0)
    replayed = ", ".join(str(-line) for line in shown if line < 0)
    said = " and ".join(part for part in (own and f"lines {own}", replayed and f"replayed lines {replayed}") if part)
    more = "" if len(batch) <= _SHOWN_LINES else f" and {len(batch) - _SHOWN_LINES} more"
    return said + more
