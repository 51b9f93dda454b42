"""TrainSpec: all that a training run depends on beside its data and base model, as frozen, versioned JSON."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

from trellis.errors import FieldViolation, InvalidArgument

SPEC_VERSION = 1
MAX_RANK = 256
MAX_BATCH_SIZE = 1024
KEPT_CHECKPOINTS = 2
"""So many of a job's newest checkpoints are kept: by its process, which deletes the files, and in the server's list."""

Schedule = Literal["cosine", "linear", "constant"]
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, slots=True)
class Lora:
    """The adapter's shape."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = ()
    """Names of linear modules; all linears but the output head when empty."""

    def violations(self) -> Iterator[FieldViolation]:
        """What is wrong with it, as fields of SupervisedSpec."""
        yield from _within("lora.rank", self.rank, 1, MAX_RANK)
        yield from _within("lora.alpha", self.alpha, 1e-3, 1e4)
        yield from _within("lora.dropout", self.dropout, 0.0, 0.95)
        for name in self.target_modules:
            if not name or not all(part.isidentifier() or part.isdigit() for part in name.split(".")):
                yield FieldViolation("lora.target_modules", f"{name!r} can't be the name of a module.")


@dataclass(frozen=True, slots=True)
class TrainSpec:
    """Supervised LoRA training. Lengths are in tokens, counts in optimizer steps or lines."""

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
    method: Literal["supervised"] = "supervised"
    version: int = SPEC_VERSION

    def violations(self, base_context_length: int) -> tuple[FieldViolation, ...]:
        """Every field that is out of its range, named as in the API's SupervisedSpec."""
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
        if values.get("version") != SPEC_VERSION:
            message = f"This code reads TrainSpec version {SPEC_VERSION}, not {values.get('version')!r}."
            raise InvalidArgument.for_field("version", message)
        unknown = values.keys() - {f.name for f in fields(cls)}
        if unknown:
            raise InvalidArgument.for_field(min(unknown), "TrainSpec has no such field.")
        lora = values.pop("lora")
        return cls(**values, lora=Lora(**{**lora, "target_modules": tuple(lora["target_modules"])}))


def _within(name: str, value: float, low: float, high: float) -> Iterator[FieldViolation]:
    if not (math.isfinite(value) and low <= value <= high):
        yield FieldViolation(name, f"{value} is not between {low} and {high}.")
