"""What adds up over a job's steps, and over its attempts."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from trellis_jobs.evaluation import Evaluation


@dataclass(slots=True)
class Totals:
    """Kept in every checkpoint."""

    step: int = 0
    """Optimizer steps done."""
    trained_tokens: int = 0
    loss: float = math.nan
    """Of the latest step."""
    valid_loss: float | None = None
    """The held-out loss at this step, if that was measured."""
    best_loss: float | None = None
    """The lowest held-out loss that was measured."""
    best_step: int = 0
    best_key: str = ""
    """The checkpoint of that step, for a job that stops early."""
    worse: int = 0
    """Measurements of held-out loss since the lowest one."""
    base_evaluation: Evaluation | None = None

    def stepped(self, tokens: int, loss: float) -> None:
        """A step is done."""
        self.step += 1
        self.trained_tokens += tokens
        self.loss = loss
        self.valid_loss = None

    def measured(self, valid_loss: float) -> bool:
        """Held-out loss was measured at this step; whether it is the lowest so far."""
        self.valid_loss = valid_loss
        if self.best_loss is None or valid_loss < self.best_loss:
            self.best_loss, self.best_step, self.worse = valid_loss, self.step, 0
            return True
        self.worse += 1
        return False

    def to_state(self) -> dict[str, Any]:
        """All but the step, as JSON."""
        state = asdict(self)
        del state["step"]
        return state

    @classmethod
    def from_state(cls, step: int, state: Mapping[str, Any]) -> Self:
        """What `to_state` gave. Raises LookupError and TypeError."""
        base = state["base_evaluation"]
        values = {**state, "base_evaluation": None if base is None else Evaluation(**base)}
        return cls(step=step, **values)
