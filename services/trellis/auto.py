"""Settings that were not given: each gets a number by a rule, and the rule is told. docs/tuning.md gives the sources."""
# ruff: noqa: ARG001 - every rule is given spec and facts

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from trellis.spec import (
    MAX_BATCH_SIZE,
    MAX_EPOCHS,
    MAX_PAUSE_STEPS,
    REPLAY_FRACTION,
    Lora,
    Preference,
    Resolved,
    TrainSpec,
)

_REFERENCE_SIZE: Final = 7e9
_REFERENCE_RATE: Final = 2e-4
_RATE_POWER: Final = 0.466
_LOWEST_RATE, _HIGHEST_RATE = 1e-4, 5e-3
_FULL_SHARE: Final = 10
_DPO_SHARE, _ORPO_SHARE = 10, 4

_BATCHES: Final = ((10_000, 32), (400, 16), (200, 8), (0, 4))
"""From so many items on, a batch has so many."""
_BATCH_TOKENS: Final = 32_768
_FEWEST_PASSES: Final = 1500
_MOST_PASSES: Final = 60_000

_RANKS: Final = ((10_000_000, 64), (1_000_000, 32), (0, 16))
"""From so many trained tokens on, the rank is so much."""
_MOST_HELD_OUT: Final = 1000


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules look at beside the spec: the base's parameters, the dataset's lines and its trained tokens."""

    parameters: int
    lines: int
    trained_tokens: int


Chosen = tuple[Any, str]
"""A value, and why, as a sentence."""


def resolve(spec: TrainSpec, facts: Facts) -> TrainSpec:
    """The spec with every field of `spec.auto` chosen, and each choice in `spec.resolved`."""
    for name, rule in _RULES.items():
        if name in spec.auto:
            value, why = rule(spec, facts)
            spec = _with(spec, name, value, why)
    return replace(spec, auto=())


def _with(spec: TrainSpec, name: str, value: Any, why: str) -> TrainSpec:
    path = name if name.startswith("preference.") else f"{spec.settings_path}.{name}"
    resolved = (*spec.resolved, Resolved(path, f"{value:g}" if isinstance(value, float) else str(value), why))
    part, _, inner = name.rpartition(".")
    if part:
        return replace(spec, resolved=resolved, **{part: replace(getattr(spec, part), **{inner: value})})
    return replace(spec, resolved=resolved, **{name: value})


def _rank(spec: TrainSpec, facts: Facts) -> Chosen:
    rank = next(rank for least, rank in _RANKS if facts.trained_tokens >= least)
    return rank, f"{facts.trained_tokens:,} trained tokens: 16, 32 from a million on, 64 from ten millions on."


def _alpha(spec: TrainSpec, facts: Facts) -> Chosen:
    return 2.0 * spec.lora.rank, f"Twice the rank of {spec.lora.rank}."


def _held_out_fraction(spec: TrainSpec, facts: Facts) -> Chosen:
    fraction = _rounded(min(0.1, _MOST_HELD_OUT / max(facts.lines, 1)))
    return fraction, f"A tenth of the {facts.lines:,} lines, but about {_MOST_HELD_OUT:,} lines at the most."


def _batch_size(spec: TrainSpec, facts: Facts) -> Chosen:
    items = _items(spec, facts)
    size = next(size for least, size in _BATCHES if items >= least)
    why = f"{_said(spec, items)}: 4, 8 from 200 on, 16 from 400 on, 32 from 10,000 on"
    while size > 4 and size * facts.trained_tokens / _whole(spec, facts) > _BATCH_TOKENS:
        size //= 2
        why = f"{_said(spec, items)}, halved to about {_BATCH_TOKENS:,} trained tokens"
    part = spec.gradient_accumulation_steps * (spec.distributed.workers if spec.distributed else 1)
    if size % part:
        size = math.ceil(size / part) * part
        why = f"{why}, as a multiple of {part} parts and workers"
    return max(min(size, MAX_BATCH_SIZE), spec.gradient_accumulation_steps), f"{why}."


def _epochs(spec: TrainSpec, facts: Facts) -> Chosen:
    items = _items(spec, facts)
    if spec.max_steps is not None:
        epochs = min(math.ceil(spec.max_steps / _epoch_steps(spec, facts)), MAX_EPOCHS)
        return epochs, f"As many as max_steps ({spec.max_steps:,}) take, {MAX_EPOCHS} at the most."
    usual, most = {"supervised": (3, 10), "preference": (1, 3), "pretraining": (1, 4)}[spec.method]
    many = min(math.ceil(_FEWEST_PASSES / items), most)
    few = max(_MOST_PASSES // items, 1)
    why = f"{_said(spec, items)}: {usual}; of few as many as make {_FEWEST_PASSES:,}, {most} at the most"
    if few < usual:
        return few, f"{_said(spec, items)}: {usual}, but not more than make {_MOST_PASSES:,}, one at the least."
    return max(usual, many), f"{why}."


def _warmup_ratio(spec: TrainSpec, facts: Facts) -> Chosen:
    steps = _total_steps(spec, facts)
    return _rounded(min(max(0.03, 5 / steps), 0.1)), f"3 % of {steps:,} steps, of few 5 steps or a tenth."


def _checkpoint_steps(spec: TrainSpec, facts: Facts) -> Chosen:
    steps = _total_steps(spec, facts)
    return min(max(math.ceil(steps / 20), 50), 500), f"A twentieth of {steps:,} steps, 50 to 500."


def _evaluation_steps(spec: TrainSpec, facts: Facts) -> Chosen:
    steps = _total_steps(spec, facts)
    if spec.early_stopping_patience is not None:
        return min(
            max(math.ceil(steps / 10), 1), MAX_PAUSE_STEPS
        ), f"A tenth of {steps:,} steps, as early stopping looks at it."
    return min(max(math.ceil(steps / 5), 1), MAX_PAUSE_STEPS), f"A fifth of {steps:,} steps."


def _learning_rate(spec: TrainSpec, facts: Facts) -> Chosen:
    scaled = _REFERENCE_RATE * (_REFERENCE_SIZE / max(facts.parameters, 1)) ** _RATE_POWER
    rate = min(max(scaled, _LOWEST_RATE), _HIGHEST_RATE)
    parts = [f"Adapters of a base of {_size(facts.parameters)} parameters learn at {_rounded(rate):g}"]
    shares = [(spec.full, _FULL_SHARE, "all weights")]
    shares += [(spec.method == "preference" and spec.preference.loss == "dpo", _DPO_SHARE, "DPO")]
    shares += [(spec.method == "preference" and spec.preference.loss == "orpo", _ORPO_SHARE, "ORPO")]
    for applies, share, what in shares:
        if applies:
            rate /= share
            parts.append(f"{what} at a {_SHARES[share]} of it")
    return _rounded(rate), f"{', '.join(parts)}."


_SHARES: Final = {4: "quarter", 10: "tenth"}


def _fixed(value: Any, why: str) -> Callable[[TrainSpec, Facts], Chosen]:
    return lambda _spec, _facts: (value, why)


def _context_length(spec: TrainSpec, facts: Facts) -> Chosen:
    return spec.context_length, "The base's own."


_RULES: Final[Mapping[str, Callable[[TrainSpec, Facts], Chosen]]] = {
    "preference.beta": _fixed(Preference().beta, "As in the methods' papers."),
    "context_length": _context_length,
    "gradient_accumulation_steps": _fixed(1, "Passes are cut by memory anyway."),
    "max_grad_norm": _fixed(1.0, "What transformers' Trainer clips at."),
    "weight_decay": _fixed(0.0, "None, as in the LoRA and QLoRA recipes."),
    "seed": _fixed(0, "Always the same, so that a run can be repeated."),
    "max_evaluation_lines": _fixed(200, "Enough to tell answers apart, and soon done."),
    "replay_fraction": _fixed(REPLAY_FRACTION, "A tenth of each batch."),
    "held_out_fraction": _held_out_fraction,
    "lora.rank": _rank,
    "lora.alpha": _alpha,
    "lora.dropout": _fixed(Lora().dropout, "None: few epochs and held-out loss guard against learning by heart."),
    "batch_size": _batch_size,
    "epochs": _epochs,
    "warmup_ratio": _warmup_ratio,
    "checkpoint_steps": _checkpoint_steps,
    "evaluation_steps": _evaluation_steps,
    "learning_rate": _learning_rate,
}
"""By field, in an order in which each finds chosen what it looks at."""


@dataclass(frozen=True, slots=True)
class Course:
    """About how far a run goes, in lines, pairs or pieces of text."""

    steps: int
    """Optimizer steps."""
    items: int
    """That are trained on in all: each as often as there are epochs, and those that are replayed."""
    held_out: int
    whole: int
    """That the dataset has."""
    measurements: int
    """How often held-out loss is measured while it trains."""


def course_of(spec: TrainSpec, facts: Facts) -> Course:
    """What a run of this spec, whose settings are all chosen, does."""
    whole, items, steps = _whole(spec, facts), _items(spec, facts), _total_steps(spec, facts)
    replayed = spec.replay_size if spec.replay_dataset else 0
    fresh = min(items * spec.epochs, steps * (spec.batch_size - replayed))
    every = spec.evaluation_steps or _epoch_steps(spec, facts)
    return Course(steps, fresh + steps * replayed, whole - items, whole, steps // max(every, 1))


AUTO_FIELDS: Final = tuple(_RULES)
"""The fields of a TrainSpec that rules can choose; those of its parts with a dot, such as `lora.rank`."""


def _whole(spec: TrainSpec, facts: Facts) -> int:
    """About how many items the dataset has: lines, or pieces of text that fit the context."""
    pieces = math.ceil(facts.trained_tokens / max(spec.context_length - 1, 1)) if spec.method == "pretraining" else 0
    return max(facts.lines, pieces, 1)


def _items(spec: TrainSpec, facts: Facts) -> int:
    """About how many of them are trained on."""
    held_out = 0.0 if spec.validation_dataset else spec.held_out_fraction
    return max(round(_whole(spec, facts) * (1 - held_out)), 1)


def _epoch_steps(spec: TrainSpec, facts: Facts) -> int:
    fresh = spec.batch_size - (spec.replay_size if spec.replay_dataset else 0)
    return math.ceil(_items(spec, facts) / max(fresh, 1))


def _total_steps(spec: TrainSpec, facts: Facts) -> int:
    steps = _epoch_steps(spec, facts) * spec.epochs
    return steps if spec.max_steps is None else min(steps, spec.max_steps)


def _said(spec: TrainSpec, items: int) -> str:
    what = {"supervised": "line", "preference": "pair", "pretraining": "piece"}[spec.method]
    return f"{items:,} {what}{'' if items == 1 else 's'} to train on"


def _size(parameters: int) -> str:
    unit, name = (1e9, "billion") if parameters >= 1e9 else (1e6, "million")
    return f"{parameters / unit:.2g} {name}"


def _rounded(value: float) -> float:
    """Two digits are all that such a rule knows."""
    return float(f"{value:.2g}")
