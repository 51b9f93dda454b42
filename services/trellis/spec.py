"""TrainSpec: all that a training run depends on beside its data and base model, as frozen, versioned JSON."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import islice
from typing import Any, Literal, Self

from trellis.deepspeed_config import LEFT_OPEN, wrong_keys
from trellis.errors import FieldViolation, InvalidArgument

SPEC_VERSION = 2
_READABLE_VERSIONS = frozenset({1, SPEC_VERSION})
"""A spec of version 1 is one of version 2 that leaves the newer fields at their defaults."""
MAX_RANK = 256
MAX_BATCH_SIZE = 1024
MAX_EPOCHS = 100
MAX_WORKERS = 1024
MAX_PAUSE_STEPS = 1_000_000
"""At the most so many steps are between two checkpoints, or two measurements."""
HELD_OUT_FRACTION = 0.1
"""The share of lines that is held out, when it was not given and no rule has chosen it."""
REPLAY_FRACTION = 0.1
"""The share of each batch that is replayed, when it was not given."""
MAX_CONFIG_LETTERS = 65_536
"""Of a DeepSpeed config."""
_NO_STAGE_0 = "Jobs do not run without ZeRO (0): stage 1 sends as much and takes less memory, so take 1, 2 or 3."
_MAX_WRONG_KEYS = 10
"""So many wrong keys of a DeepSpeed config are said at once."""
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

    def violations(self) -> Iterator[FieldViolation]:
        """What is wrong with it, as fields of PreferenceSpec."""
        yield from _within("beta", self.beta, 1e-6, 1e3)
        if not 0 <= self.label_smoothing < 0.5:
            yield FieldViolation("label_smoothing", f"{self.label_smoothing} is not at least 0 and less than 0.5.")
        if self.loss != "dpo" and self.label_smoothing:
            yield FieldViolation("label_smoothing", "Only DPO has it; leave it out.")
        if self.loss != "dpo" and self.reference_free:
            yield FieldViolation("reference_free", "Only DPO has a reference to leave out; ORPO never has one.")


@dataclass(frozen=True, slots=True)
class Distributed:
    """How a job that runs by itself is spread over workers by DeepSpeed; None is for the job's process to decide."""

    workers: int = 1
    zero_stage: int | None = None
    offload: Offload = "auto"
    gradient_checkpointing: bool | None = None
    config_json: str = ""
    """Laid over the derived DeepSpeed config; empty for none."""

    @property
    def asked(self) -> Self:
        """Itself, with the ZeRO stage and the offloading that its config asks for beside it."""
        zero = _zero_part(self.config_json)
        stage = self.zero_stage if self.zero_stage is not None else zero.get("stage")
        offload = self.offload if self.offload != "auto" else _offload_of(zero)
        return replace(self, zero_stage=None if stage == LEFT_OPEN else stage, offload=offload)

    def violations(self) -> Iterator[FieldViolation]:
        """What is wrong with it, as fields of DistributedSpec."""
        yield from _within("workers", self.workers, 1, MAX_WORKERS)
        wrong = [*self._config_violations()]
        if self.zero_stage == 0:
            yield FieldViolation("zero_stage", _NO_STAGE_0)
        elif self.zero_stage is not None:
            yield from _within("zero_stage", self.zero_stage, 1, 3)
        if not wrong:
            yield from self._offload_violations()
        yield from wrong

    def _offload_violations(self) -> Iterator[FieldViolation]:
        stage, offload = self.asked.zero_stage, self.asked.offload
        field = "config_json" if self.offload == "auto" else "offload"
        if offload == "all" and stage not in {None, 0, 3}:
            yield FieldViolation(field, f"ZeRO {stage} can't offload parameters; only stage 3 can.")

    def _config_violations(self) -> Iterator[FieldViolation]:
        if not self.config_json:
            return
        if len(self.config_json) > MAX_CONFIG_LETTERS:
            yield FieldViolation("config_json", f"It is longer than {MAX_CONFIG_LETTERS} letters.")
            return
        try:
            config = json.loads(self.config_json)
        except (ValueError, RecursionError) as error:
            yield FieldViolation("config_json", f"It is no JSON: {error}.")
            return
        if not isinstance(config, dict):
            yield FieldViolation("config_json", "It is no JSON object.")
            return
        for sentence in islice(wrong_keys(config), _MAX_WRONG_KEYS):
            yield FieldViolation("config_json", sentence)
        yield from self._zero_violations(_zero_part(self.config_json))

    def _zero_violations(self, zero: Mapping[str, Any]) -> Iterator[FieldViolation]:
        stage, offload = zero.get("stage"), _offload_of(zero)
        if type(stage) is int and stage == 0:
            yield FieldViolation("config_json", _NO_STAGE_0)
        elif not (stage in (None, LEFT_OPEN) or (type(stage) is int and 1 <= stage <= 3)):
            message = f"The stage of 'zero_optimization' is {str(stage)[:40]!r}, and not 1, 2 or 3."
            yield FieldViolation("config_json", message)
        elif isinstance(stage, int) and self.zero_stage not in {None, stage}:
            message = f"It asks for ZeRO {stage}, and zero_stage for {self.zero_stage}; leave one of them out."
            yield FieldViolation("config_json", message)
        for name in ("offload_param", "offload_optimizer"):
            yield from _device_violations(name, zero.get(name))
        if offload != "auto" and self.offload not in {"auto", offload}:
            message = f"It offloads otherwise ({offload}) than offload says ({self.offload}); leave one of them out."
            yield FieldViolation("config_json", message)


def _zero_part(config_json: str) -> dict[str, Any]:
    """What a DeepSpeed config says of ZeRO; nothing where it is not one."""
    try:
        config = json.loads(config_json or "{}")
    except (ValueError, RecursionError):
        return {}
    zero = config.get("zero_optimization") if isinstance(config, dict) else None
    return zero if isinstance(zero, dict) else {}


def _offload_of(zero: Mapping[str, Any]) -> Offload:
    """What of a model the config keeps away from the devices; `auto` where it says nothing of that."""
    offloads: tuple[tuple[str, Offload], ...] = (("offload_param", "all"), ("offload_optimizer", "optimizer"))
    for key, offload in offloads:
        part = zero.get(key)
        if isinstance(part, dict) and part.get("device") == "cpu":
            return offload
    return "auto"


def _device_violations(name: str, part: Any) -> Iterator[FieldViolation]:
    device = part.get("device", "none") if isinstance(part, dict) else "none"
    if device not in ("cpu", "none", LEFT_OPEN):
        message = f"{name!r} goes to {str(device)[:40]!r}; only the host's memory ('cpu') and 'none' are there."
        yield FieldViolation("config_json", message)


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
    held_out_fraction: float = HELD_OUT_FRACTION
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
    replay_fraction: float = REPLAY_FRACTION
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

    @property
    def settings_path(self) -> str:
        """The path of the job's TrainingSettings in the API's TuningJob."""
        return "supervised" if self.method == "supervised" else f"{self.method}.training"

    @property
    def by_itself(self) -> bool:
        """Whether it needs processes of its own: a shared trainer has neither whole models to train nor 4-bit bases."""
        return self.full or self.quantization != "none"

    def violations(self, base_context_length: int) -> tuple[FieldViolation, ...]:
        """Every field that is out of its range or does not fit the others, named as in the API's TuningJob."""
        settings = (*self._ranges(base_context_length), *self._combinations())
        found = [FieldViolation(f"{self.settings_path}.{v.field}", v.description) for v in settings]
        if self.method == "preference":
            found += [FieldViolation(f"preference.{v.field}", v.description) for v in self.preference.violations()]
        if self.distributed is not None:
            found += [FieldViolation(f"distributed.{v.field}", v.description) for v in self.distributed.violations()]
            found += [FieldViolation(f"distributed.{v.field}", v.description) for v in self._sharding_violations()]
        if self.full and self.initial_adapter:
            message = "All weights are trained, so there is no adapter to start from."
            found.append(FieldViolation("initial_adapter", message))
        return tuple(FieldViolation(f"tuning_job.{v.field}", v.description) for v in found)

    def _ranges(self, base_context_length: int) -> Iterator[FieldViolation]:
        yield from self.lora.violations()
        yield from _within("epochs", self.epochs, 1, MAX_EPOCHS)
        yield from _within("batch_size", self.batch_size, 1, MAX_BATCH_SIZE)
        yield from self._accumulation_violations()
        yield from _within("learning_rate", self.learning_rate, 1e-9, 1.0)
        yield from _within("warmup_ratio", self.warmup_ratio, 0.0, 1.0)
        yield from _within("weight_decay", self.weight_decay, 0.0, 10.0)
        yield from _within("max_grad_norm", self.max_grad_norm, 1e-6, 1e6)
        yield from _within("context_length", self.context_length, 8, base_context_length)
        yield from _within("seed", self.seed, 0, 2**31 - 1)
        yield from _within("held_out_fraction", self.held_out_fraction, 0.0, 0.5)
        yield from _within("replay_fraction", self.replay_fraction, 0.0, 0.9)
        yield from _within("checkpoint_steps", self.checkpoint_steps, 1, MAX_PAUSE_STEPS)
        yield from _within("max_evaluation_lines", self.max_evaluation_lines, 0, 100_000)
        optional = ("max_steps", 10_000_000), ("evaluation_steps", MAX_PAUSE_STEPS), ("early_stopping_patience", 1000)
        for name, most in optional:
            value = getattr(self, name)
            if value is not None:
                yield from _within(name, value, 1, most)

    def _accumulation_violations(self) -> Iterator[FieldViolation]:
        steps = self.gradient_accumulation_steps
        if steps > MAX_BATCH_SIZE:
            yield from _within("gradient_accumulation_steps", steps, 1, MAX_BATCH_SIZE)
        elif steps < 1 or (self.batch_size >= 1 and self.batch_size % steps):
            description = f"{steps} must be at least 1 and divide batch_size ({self.batch_size})."
            yield FieldViolation("gradient_accumulation_steps", description)

    def _combinations(self) -> Iterator[FieldViolation]:
        if self.full and self.lora != Lora():
            yield FieldViolation("lora", "All weights are trained, so there is no adapter to shape; leave it out.")
        if self.full and self.quantization != "none":
            message = "The weights of a 4-bit base can't be trained; train an adapter on it, or leave quantization out."
            yield FieldViolation("quantization", message)
        if self.early_stopping_patience is not None and not (self.held_out_fraction or self.validation_dataset):
            message = "Nothing is held out to stop by; give a held_out_fraction above 0 or a validation_dataset."
            yield FieldViolation("early_stopping_patience", message)
        if self.evaluation_steps is not None and not (self.held_out_fraction or self.validation_dataset):
            message = "Nothing is held out to measure; give a held_out_fraction above 0 or a validation_dataset."
            yield FieldViolation("evaluation_steps", message)
        if self.validation_dataset and self.held_out_fraction not in {0.0, HELD_OUT_FRACTION}:
            message = (
                "The validation_dataset is measured, and no line of the training dataset is held out; leave it out."
            )
            yield FieldViolation("held_out_fraction", message)
        if not self.replay_dataset and self.replay_fraction != REPLAY_FRACTION:
            yield FieldViolation(
                "replay_fraction", "There is nothing to replay; name a replay_dataset, or leave it out."
            )
        if self.replay_dataset and self.batch_size == 1:
            yield FieldViolation("batch_size", "A batch of 1 has no room for a replayed line; 2 is the least.")

    def _sharding_violations(self) -> Iterator[FieldViolation]:
        """What ZeRO can't do with the weights that the job has, as fields of DistributedSpec."""
        assert self.distributed is not None
        asked = self.distributed.asked
        if self.quantization == "none" or (asked.zero_stage != 3 and asked.offload != "all"):
            return
        field = "zero_stage" if self.distributed.zero_stage == 3 else "offload"
        field = "config_json" if self.distributed.asked != self.distributed else field
        yield FieldViolation(
            field, "A 4-bit base can't be cut up (ZeRO 3); take stage 1 or 2, or leave quantization out."
        )

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
