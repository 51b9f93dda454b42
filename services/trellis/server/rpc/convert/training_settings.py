"""The settings of training: what a request sets, and what a job has."""

from typing import Any

from trellis.spec import Lora, TrainSpec
from trellis.v1 import tuning_job_pb2 as pb

_PLAIN = (
    "epochs",
    "max_steps",
    "batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "warmup_ratio",
    "weight_decay",
    "max_grad_norm",
    "context_length",
    "seed",
    "held_out_fraction",
    "checkpoint_steps",
    "max_evaluation_lines",
    "evaluation_steps",
    "early_stopping_patience",
    "replay_fraction",
)
_SHAPE = ("rank", "alpha", "dropout")
_SCHEDULES = {
    pb.LEARNING_RATE_SCHEDULE_COSINE: "cosine",
    pb.LEARNING_RATE_SCHEDULE_LINEAR: "linear",
    pb.LEARNING_RATE_SCHEDULE_CONSTANT: "constant",
}
_PRECISIONS = {pb.PRECISION_FP32: "fp32", pb.PRECISION_BF16: "bf16"}
_SCHEDULE_NUMBERS = {name: number for number, name in _SCHEDULES.items()}
_PRECISION_NUMBERS = {name: number for number, name in _PRECISIONS.items()}


def chosen_settings(message: pb.TrainingSettings) -> dict[str, Any]:
    """The fields of TrainSpec that the request sets."""
    settings = {field: getattr(message, field) for field in _PLAIN if message.HasField(field)}  # type: ignore[arg-type]
    if message.schedule in _SCHEDULES:
        settings["schedule"] = _SCHEDULES[message.schedule]
    if message.precision in _PRECISIONS:
        settings["precision"] = _PRECISIONS[message.precision]
    if message.full:
        settings["full"] = True
    if message.quantization == pb.QUANTIZATION_NF4:
        settings["quantization"] = "nf4"
    return settings


def chosen_lora(message: pb.LoraSpec) -> dict[str, Any]:
    """The fields of Lora that the request sets."""
    chosen = {field: getattr(message, field) for field in _SHAPE if message.HasField(field)}  # type: ignore[arg-type]
    if message.target_modules:
        chosen["target_modules"] = tuple(message.target_modules)
    return chosen


def training_settings(spec: TrainSpec) -> pb.TrainingSettings:
    """All settings that the job has, on the wire, but for those that are still to be chosen."""
    plain = {field: getattr(spec, field) for field in _PLAIN if field not in spec.auto}
    if not spec.replay_dataset:
        plain.pop("replay_fraction", None)
    return pb.TrainingSettings(
        lora=None if spec.full else _lora(spec.lora, spec.auto),
        schedule=_SCHEDULE_NUMBERS[spec.schedule],
        precision=_PRECISION_NUMBERS.get(spec.precision, pb.PRECISION_UNSPECIFIED),
        full=spec.full,
        quantization=pb.QUANTIZATION_NF4 if spec.quantization == "nf4" else pb.QUANTIZATION_UNSPECIFIED,
        **plain,
    )


def _lora(lora: Lora, auto: tuple[str, ...]) -> pb.LoraSpec:
    plain = {field: getattr(lora, field) for field in _SHAPE if f"lora.{field}" not in auto}
    return pb.LoraSpec(target_modules=lora.target_modules, **plain)
