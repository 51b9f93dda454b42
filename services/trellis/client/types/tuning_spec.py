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


class Quantization(StrEnum):
    """In which number format the frozen base lies in memory; when UNSPECIFIED, as `precision` says."""

    UNSPECIFIED = "UNSPECIFIED"
    NF4 = "NF4"


class PreferenceLoss(StrEnum):
    """What preference tuning minimises; DPO when UNSPECIFIED."""

    UNSPECIFIED = "UNSPECIFIED"
    DPO = "DPO"
    ORPO = "ORPO"


class Offload(StrEnum):
    """What DeepSpeed keeps in the host's memory; when UNSPECIFIED, what does not fit on the devices."""

    UNSPECIFIED = "UNSPECIFIED"
    NONE = "NONE"
    OPTIMIZER = "OPTIMIZER"
    ALL = "ALL"


@dataclass(frozen=True, slots=True)
class LoraSpec:
    """The shape of the adapter; what is None is chosen by a rule."""

    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    target_modules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How a run is trained, whatever its method. Numbers that are None are chosen by rules, which the job shows."""

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
    evaluation_steps: int | None = None
    early_stopping_patience: int | None = None
    full: bool = False
    replay_fraction: float | None = None
    quantization: Quantization = Quantization.UNSPECIFIED


@dataclass(frozen=True, slots=True)
class PreferenceSpec:
    """Preference tuning: of two answers to a prompt the chosen one is made likelier than the rejected one."""

    training: TrainingSettings | None = None
    loss: PreferenceLoss = PreferenceLoss.UNSPECIFIED
    beta: float | None = None
    label_smoothing: float | None = None
    reference_free: bool = False


@dataclass(frozen=True, slots=True)
class PretrainingSpec:
    """Continued pre-training: loss on every token of plain text."""

    training: TrainingSettings | None = None


@dataclass(frozen=True, slots=True)
class DistributedSpec:
    """Runs a job by itself on DeepSpeed over several workers; what is None is decided by size, devices and memory."""

    workers: int | None = None
    zero_stage: int | None = None
    offload: Offload = Offload.UNSPECIFIED
    gradient_checkpointing: bool | None = None
    config_json: str = ""
