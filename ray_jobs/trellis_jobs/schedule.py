"""The learning rate of each step."""

import math

from trellis.spec import TrainSpec


def learning_rate(spec: TrainSpec, step: int, total_steps: int) -> float:
    """The rate of the step after `step` steps are done: up to the highest in the warm-up, then along the schedule."""
    warmup = math.ceil(spec.warmup_ratio * total_steps)
    if step < warmup:
        return spec.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, total_steps - warmup)
    return spec.learning_rate * _factor(spec, done)


def _factor(spec: TrainSpec, done: float) -> float:
    match spec.schedule:
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * done))
        case "linear":
            return 1.0 - done
        case "constant":
            return 1.0
