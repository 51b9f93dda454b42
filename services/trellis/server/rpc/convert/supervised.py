"""The settings of supervised tuning: what a request sets, and what a job was resolved to."""

from typing import Any

from trellis.spec import TrainSpec
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
)
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
    return settings


def chosen_lora(message: pb.LoraSpec) -> dict[str, Any]:
    """The fields of Lora that the request sets."""
    chosen = {field: getattr(message, field) for field in ("rank", "alpha", "dropout") if message.HasField(field)}
    if message.target_modules:
        chosen["target_modules"] = tuple(message.target_modules)
    return chosen


def supervised(spec: TrainSpec) -> pb.TrainingSettings:
    """All settings that the job has, on the wire."""
    lora = spec.lora
    return pb.TrainingSettings(
        lora=pb.LoraSpec(rank=lora.rank, alpha=lora.alpha, dropout=lora.dropout, target_modules=lora.target_modules),
        schedule=_SCHEDULE_NUMBERS[spec.schedule],
        precision=_PRECISION_NUMBERS.get(spec.precision, pb.PRECISION_UNSPECIFIED),
        **{field: getattr(spec, field) for field in _PLAIN},
    )
