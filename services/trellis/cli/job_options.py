"""The options that say how to tune."""

from collections.abc import Callable, Mapping
from typing import Any

import click

from trellis.client.types import LearningRateSchedule, LoraSpec, Precision, TrainingSettings

_LORA = ("rank", "alpha", "dropout", "target_modules")
_OPTIONS = (
    click.option("--rank", type=int, help="The adapter's rank.  [default: 16]"),
    click.option("--alpha", type=float, help="Its scaling is alpha / rank.  [default: twice the rank]"),
    click.option("--dropout", type=float, help="Dropout before the adapter.  [default: 0]"),
    click.option("--target-module", "target_modules", multiple=True, help="A linear to adapt.  [default: all]"),
    click.option("--epochs", type=int, help="Passes over the lines.  [default: 3]"),
    click.option("--max-steps", type=int, help="Stop after so many steps."),
    click.option("--batch-size", type=int, help="Lines a step.  [default: 16]"),
    click.option("--gradient-accumulation-steps", type=int, help="Parts of a batch.  [default: 1]"),
    click.option("--learning-rate", type=float, help="The highest learning rate.  [default: 1e-3]"),
    click.option("--schedule", type=click.Choice(["cosine", "linear", "constant"]), help="[default: cosine]"),
    click.option("--warmup-ratio", type=float, help="The share of steps in which it rises.  [default: 0.03]"),
    click.option("--weight-decay", type=float, help="[default: 0]"),
    click.option("--max-grad-norm", type=float, help="[default: 1]"),
    click.option("--context-length", type=int, help="Cut lines at so many tokens.  [default: the base's]"),
    click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="[default: what suits the hardware]"),
    click.option("--seed", type=int, help="[default: 0]"),
    click.option("--held-out-fraction", type=float, help="The share of lines to evaluate on.  [default: 0.1]"),
    click.option("--checkpoint-steps", type=int, help="[default: 50]"),
    click.option("--max-evaluation-lines", type=int, help="Answer at most so many.  [default: 200]"),
)


def supervised_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command all of them."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def supervised_spec(values: Mapping[str, Any]) -> TrainingSettings:
    """What they say."""
    lora = LoraSpec(**{name: values[name] for name in _LORA})
    rest = {name: value for name, value in values.items() if name not in {*_LORA, "schedule", "precision"}}
    return TrainingSettings(
        lora=None if lora == LoraSpec() else lora,
        schedule=LearningRateSchedule((values["schedule"] or "unspecified").upper()),
        precision=Precision((values["precision"] or "unspecified").upper()),
        **rest,
    )
