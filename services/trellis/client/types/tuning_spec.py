"""What a tuning job is asked to do."""

from dataclasses import dataclass
from enum import StrEnum


class LearningRateSchedule(StrEnum):
    """How the learning rate moves after the warm-up; cosine when UNSPECIFIED."""

    UNSPECIFIED = "UNSPECIFIED"
    COSINE = "COSINE"
    LINEAR = "LINEAR"
    CONSTANT = "CONSTANT"


class Precision(StrEnum):
    """The number format of training; when UNSPECIFIED, what suits the hardware."""

    UNSPECIFIED = "UNSPECIFIED"
    FP32 = "FP32"
    BF16 = "BF16"


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """The shape of the adapter; what is None gets the platform's default."""

    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    target_modules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Supervised fine-tuning: loss on what the assistant says. What is None gets the platform's default."""

    lora: LoraSpec | None = None
    epochs: int | None = None
    max_steps: int | None = None
    batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    learning_rate: float | None = None
    schedule: LearningRateSchedule = LearningRateSchedule.UNSPECIFIED
    warmup_ratio: float | None = None
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    context_length: int | None = None
    precision: Precision = Precision.UNSPECIFIED
    seed: int | None = None
    held_out_fraction: float | None = None
    checkpoint_steps: int | None = None
    max_evaluation_lines: int | None = None
