"""The options that say how to tune."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from trellis.client.types import (
    DistributedSpec,
    LearningRateSchedule,
    LoraSpec,
    Offload,
    Precision,
    PreferenceLoss,
    PreferenceSpec,
    PretrainingSpec,
    Quantization,
    TrainingSettings,
)

_LORA: Final = ("rank", "alpha", "dropout", "target_modules")
_ENUMS: Final = {"schedule": LearningRateSchedule, "precision": Precision, "quantization": Quantization}
_PREFERENCE: Final = ("beta", "label_smoothing", "reference_free")
_DISTRIBUTED: Final = ("workers", "zero_stage", "offload", "gradient_checkpointing", "deepspeed_config")
_METHODS: Final = ("supervised", "dpo", "orpo", "pretraining")

_OPTIONS = (
    click.option("--method", type=click.Choice(_METHODS), default="supervised", show_default=True),
    click.option(
        "--beta", type=float, help="DPO: how close to the reference; ORPO: the ratio's weight.  [default: 0.1]"
    ),
    click.option("--label-smoothing", type=float, help="DPO: the share of pairs taken to be wrong.  [default: 0]"),
    click.option("--reference-free", is_flag=True, help="DPO without a reference."),
    click.option("--full", is_flag=True, help="Train all weights, on DeepSpeed; gives a whole model."),
    click.option("--quantization", type=click.Choice(["nf4"]), help="A 4-bit base (QLoRA), on a GPU.  [default: none]"),
    click.option("--rank", type=int, help="The adapter's rank.  [default: auto]"),
    click.option("--alpha", type=float, help="Its scaling is alpha / rank.  [default: twice the rank]"),
    click.option("--dropout", type=float, help="Dropout before the adapter.  [default: 0]"),
    click.option("--target-module", "target_modules", multiple=True, help="A linear to adapt.  [default: all]"),
    click.option("--epochs", type=int, help="Passes over the lines.  [default: auto]"),
    click.option("--max-steps", type=int, help="Stop after so many steps."),
    click.option("--batch-size", type=int, help="Lines a step.  [default: auto]"),
    click.option("--gradient-accumulation-steps", type=int, help="Parts of a batch.  [default: 1]"),
    click.option("--learning-rate", type=float, help="The highest learning rate.  [default: auto]"),
    click.option("--schedule", type=click.Choice(["cosine", "linear", "constant"]), help="[default: cosine]"),
    click.option("--warmup-ratio", type=float, help="The share of steps in which it rises.  [default: auto]"),
    click.option("--weight-decay", type=float, help="[default: 0]"),
    click.option("--max-grad-norm", type=float, help="[default: 1]"),
    click.option("--context-length", type=int, help="Cut lines at so many tokens.  [default: the base's]"),
    click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="[default: what suits the hardware]"),
    click.option("--seed", type=int, help="[default: 0]"),
    click.option("--held-out-fraction", type=float, help="The share of lines to evaluate on.  [default: auto]"),
    click.option("--checkpoint-steps", type=int, help="A checkpoint every so many steps.  [default: auto]"),
    click.option("--evaluation-steps", type=int, help="Held-out loss every so many steps.  [default: auto]"),
    click.option("--early-stopping-patience", type=int, help="Stop after so many measurements without gain."),
    click.option("--max-evaluation-lines", type=int, help="Answer at most so many.  [default: 200]"),
    click.option("--replay-fraction", type=float, help="The replay dataset's share of a batch.  [default: 0.1]"),
    click.option("--workers", type=int, help="Run by itself on DeepSpeed, with so many workers."),
    click.option("--zero-stage", type=click.IntRange(1, 3), help="DeepSpeed's ZeRO stage.  [default: auto]"),
    click.option("--offload", type=click.Choice(["none", "optimizer", "all"]), help="To the host.  [default: auto]"),
    click.option(
        "--gradient-checkpointing/--no-gradient-checkpointing", default=None, help="On DeepSpeed.  [default: auto]"
    ),
    click.option(
        "--deepspeed-config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="A JSON file, laid over the derived DeepSpeed config.",
    ),
)


def method_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command all of them."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def method_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """What they say, as arguments of `jobs.create`."""
    method, rest = values["method"], {name: value for name, value in values.items() if name != "method"}
    preference = {name: rest.pop(name) for name in _PREFERENCE}
    distributed = _distributed_spec({name: rest.pop(name) for name in _DISTRIBUTED})
    settings = _training_settings(rest)
    if method not in {"dpo", "orpo"} and any(preference.values()):
        raise click.UsageError("--beta, --label-smoothing and --reference-free are for the methods dpo and orpo.")
    if method == "supervised":
        return {"supervised": settings, "distributed": distributed}
    if method == "pretraining":
        return {"pretraining": PretrainingSpec(training=settings), "distributed": distributed}
    spec = PreferenceSpec(training=settings, loss=PreferenceLoss(method.upper()), **preference)
    return {"preference": spec, "distributed": distributed}


def _training_settings(values: Mapping[str, Any]) -> TrainingSettings:
    lora = LoraSpec(**{name: values[name] for name in _LORA})
    rest = {name: value for name, value in values.items() if name not in {*_LORA, *_ENUMS}}
    enums: dict[str, Any] = {name: kind((values[name] or "unspecified").upper()) for name, kind in _ENUMS.items()}
    return TrainingSettings(lora=None if lora == LoraSpec() else lora, **enums, **rest)


def _distributed_spec(values: Mapping[str, Any]) -> DistributedSpec | None:
    if all(value is None for value in values.values()):
        return None
    config = values["deepspeed_config"]
    return DistributedSpec(
        workers=values["workers"],
        zero_stage=values["zero_stage"],
        offload=Offload((values["offload"] or "unspecified").upper()),
        gradient_checkpointing=values["gradient_checkpointing"],
        config_json=config.read_text() if config else "",
    )
