"""TrainSpec: all that a training run depends on beside its data and base model, as frozen, versioned JSON."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

from trellis.errors import FieldViolation, InvalidArgument

SPEC_VERSION = 2
_READABLE_VERSIONS = frozenset({1, SPEC_VERSION})
"""A spec of version 1 is one of version 2 that leaves the newer fields at their defaults."""
MAX_RANK = 256
MAX_BATCH_SIZE = 1024
KEPT_CHECKPOINTS = 2
"""So many of a job's newest checkpoints are kept, beside the best one and pinned ones."""

Schedule = Literal["cosine", "linear", "constant"]
Precision = Literal["auto", "fp32", "bf16"]
Method = Literal["supervised", "preference", "pretraining"]
PreferenceLoss = Literal["dpo", "orpo"]
Offload = Literal["auto", "none", "optimizer", "all"]
Quantization = Literal["none", "nf4"]


@dataclass(frozen=True, slots=True)
class Lora:
    """The adapter's shape."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ()
    """Names of linear modules; all linears but the output head when empty."""

    def violations(self) -> Iterator[FieldViolation]:
        """What is wrong with it, as fields of TrainingSettings."""
        yield from _within("lora.rank", self.rank, 1, MAX_RANK)
        yield from _within("lora.alpha", self.alpha, 1e-3, 1e4)
        yield from _within("lora.dropout", self.dropout, 0.0, 0.95)
        for name in self.target_modules:
            if not name or not all(part.isidentifier() or part.isdigit() for part in name.split(".")):
                yield FieldViolation("lora.target_modules", f"{name!r} can't be the name of a module.")


@dataclass(frozen=True, slots=True)
class Preference:
    """What preference tuning minimises; see proto/trellis/v1/tuning_job.proto, PreferenceSpec."""

    loss: PreferenceLoss = "dpo"
    beta: float = 0.1
    label_smoothing: float = 0.0
    reference_free: bool = False


@dataclass(frozen=True, slots=True)
class Distributed:
    """How a job that runs by itself is spread over workers by DeepSpeed; None is for the job's process to decide."""

    workers: int = 1
    zero_stage: int | None = None
    offload: Offload = "auto"
    gradient_checkpointing: bool | None = None
    config_json: str = ""
    """Laid over the derived DeepSpeed config; empty for none."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A setting that was not given: its field, the value that was chosen, and the rule, as a sentence."""

    field: str
    value: str
    rule: str


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """One training run. Lengths are in tokens, counts in optimizer steps or lines."""

    base_model: str
    """The base model's name, `baseModels/…`."""
    base_source: str
    """Its folder or hub id."""
    base_revision: str
    """The revision that was registered; the worker refuses another one."""
    tokenizer_digest: str
    """sha256 of tokenizer and chat template; the worker refuses another one."""
    training_dataset: str
    """The version's name."""
    training_sha256: str
    context_length: int
    training_format: str = ""
    """A value of trellis.formats.FileFormat; told by the file's first bytes when empty."""
    validation_dataset: str = ""
    validation_sha256: str = ""
    validation_format: str = ""
    lora: Lora = field(default_factory=Lora)
    epochs: int = 3
    max_steps: int | None = None
    batch_size: int = 16
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    precision: Precision = "auto"
    seed: int = 0
    held_out_fraction: float = 0.1
    checkpoint_steps: int = 50
    max_evaluation_lines: int = 200
    method: Method = "supervised"
    preference: Preference = field(default_factory=Preference)
    """Heeded by the method `preference` alone."""
    evaluation_steps: int | None = None
    """Held-out loss is measured every so many steps; None for once an epoch."""
    early_stopping_patience: int | None = None
    """Stop when held-out loss has not improved in so many measurements, and hand in the best checkpoint."""
    full: bool = False
    """Train all weights; there is no adapter then."""
    quantization: Quantization = "none"
    replay_dataset: str = ""
    """The version whose lines are mixed in; empty for none."""
    replay_sha256: str = ""
    replay_format: str = ""
    replay_fraction: float = 0.1
    """The share of each batch's lines that is replayed."""
    initial_adapter: str = ""
    """The name of the adapter or checkpoint to start from; empty for a new adapter."""
    initial_key: str = ""
    """Its PEFT folder in the object store."""
    distributed: Distributed | None = None
    """None for a trainer that is shared with other jobs."""
    auto: tuple[str, ...] = ()
    """Fields that were not given and are still to be chosen, which needs the dataset's report; see trellis.auto."""
    resolved: tuple[Resolved, ...] = ()
    """Fields that were not given, as they were chosen."""
    version: int = SPEC_VERSION

    @property
    def replay_size(self) -> int:
        """Lines of a whole batch that are replayed; one at least where anything is to be."""
        wanted = max(1, round(self.replay_fraction * self.batch_size)) if self.replay_fraction else 0
        return min(wanted, self.batch_size - 1)

    def violations(self, base_context_length: int) -> tuple[FieldViolation, ...]:
        """Every field that is out of its range, named as in the API's TrainingSettings."""
        return tuple(
            FieldViolation(f"tuning_job.supervised.{v.field}", v.description)
            for v in self._violations(base_context_length)
        )

    def _violations(self, base_context_length: int) -> Iterator[FieldViolation]:
        yield from self.lora.violations()
        yield from _within("epochs", self.epochs, 1, 100)
        if self.max_steps is not None:
            yield from _within("max_steps", self.max_steps, 1, 10_000_000)
        yield from _within("batch_size", self.batch_size, 1, MAX_BATCH_SIZE)
        yield from self._accumulation_violations()
        yield from _within("learning_rate", self.learning_rate, 1e-9, 1.0)
        yield from _within("warmup_ratio", self.warmup_ratio, 0.0, 1.0)
        yield from _within("weight_decay", self.weight_decay, 0.0, 10.0)
        yield from _within("max_grad_norm", self.max_grad_norm, 1e-6, 1e6)
        yield from _within("context_length", self.context_length, 8, base_context_length)
        yield from _within("seed", self.seed, 0, 2**31 - 1)
        yield from _within("held_out_fraction", self.held_out_fraction, 0.0, 0.5)
        yield from _within("checkpoint_steps", self.checkpoint_steps, 1, 1_000_000)
        yield from _within("max_evaluation_lines", self.max_evaluation_lines, 0, 100_000)

    def _accumulation_violations(self) -> Iterator[FieldViolation]:
        steps = self.gradient_accumulation_steps
        if steps < 1 or (self.batch_size >= 1 and self.batch_size % steps):
            description = f"{steps} must be at least 1 and divide batch_size ({self.batch_size})."
            yield FieldViolation("gradient_accumulation_steps", description)

    def to_json(self) -> str:
        """The spec as JSON, keys sorted, so that equal specs have equal text."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote; raise InvalidArgument for another version or unknown fields."""
        values: dict[str, Any] = json.loads(text)
        if values.pop("version", None) not in _READABLE_VERSIONS:
            message = f"This code reads TrainSpec version {SPEC_VERSION}, which {text[:100]!r} is not."
            raise InvalidArgument.for_field("version", message)
        unknown = values.keys() - {f.name for f in fields(cls)}
        if unknown:
            raise InvalidArgument.for_field(min(unknown), "TrainSpec has no such field.")
        lora, distributed = values.pop("lora"), values.pop("distributed", None)
        parts: dict[str, Any] = {
            "lora": Lora(**{**lora, "target_modules": tuple(lora["target_modules"])}),
            "preference": Preference(**values.pop("preference", {})),
            "distributed": None if distributed is None else Distributed(**distributed),
            "auto": tuple(values.pop("auto", ())),
            "resolved": tuple(Resolved(**one) for one in values.pop("resolved", ())),
        }
        return cls(**values, **parts)


def _within(name: str, value: float, low: float, high: float) -> Iterator[FieldViolation]:
    if not (math.isfinite(value) and low <= value <= high):
        yield FieldViolation(name, f"{value} is not between {low} and {high}.")
