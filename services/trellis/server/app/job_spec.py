"""From a request to the TrainSpec of its job: what was asked for, what the base says, and what rules are to choose."""

from typing import Any

from trellis.auto import AUTO_FIELDS
from trellis.server.app.initial_adapter import Start
from trellis.server.app.job_request import NewTuningJob
from trellis.server.domain.base_model import BaseModel
from trellis.spec import MAX_RANK, Distributed, Lora, Preference, TrainSpec

_BATCH_SIZE = 16
NO_LIMIT = 2**31 - 1
"""A context length for a base that is not known."""


def asked_spec(new: NewTuningJob, base: BaseModel | None, start: Start | None = None) -> TrainSpec:
    """The spec without the datasets' facts. What rules are to choose has its default until then, and is in `auto`."""
    return TrainSpec(
        base_model=base.name if base else "",
        base_source=base.source if base else "",
        base_revision=base.revision if base else "",
        tokenizer_digest=base.tokenizer_digest if base else "",
        training_dataset="",
        training_sha256="",
        validation_dataset=new.validation_dataset,
        replay_dataset=new.replay_dataset,
        method=new.method,
        preference=Preference(**(new.preference or {})),
        lora=_lora(new, start),
        initial_adapter=start.name if start else new.initial_adapter,
        initial_key=start.key if start else "",
        auto=tuple(name for name in AUTO_FIELDS if _open(name, new)),
        **_settings(new, base),
    )


def _settings(new: NewTuningJob, base: BaseModel | None) -> dict[str, Any]:
    settings = {"context_length": base.context_length if base else NO_LIMIT, **(new.settings or {})}
    if "batch_size" not in settings:
        settings["batch_size"] = _divisible(_BATCH_SIZE, settings)
    by_itself = settings.get("full") or settings.get("quantization", "none") != "none"
    if new.distributed is not None or by_itself:
        settings["distributed"] = Distributed(**(new.distributed or {}))
    return settings


def _divisible(size: int, settings: dict[str, Any]) -> int:
    """A batch size that the parts which were asked for divide, until a rule chooses one."""
    parts = int(settings.get("gradient_accumulation_steps", 1))
    return size if parts < 1 else -(-size // parts) * parts


def _lora(new: NewTuningJob, start: Start | None) -> Lora:
    shape = dict(new.lora or {})
    if start is not None:
        return Lora(start.lora.rank, start.lora.alpha, shape.get("dropout", 0.0), start.lora.target_modules)
    # Of a rank that is wrong, the rank alone is complained about.
    shape.setdefault("alpha", 2.0 * min(max(shape.get("rank", Lora().rank), 1), MAX_RANK))
    return Lora(**shape)


def _open(name: str, new: NewTuningJob) -> bool:
    """Whether a rule is to choose the field: it was not given, and the job has it."""
    part, _, inner = name.rpartition(".")
    if part == "preference":
        return new.method == "preference" and inner not in (new.preference or {})
    if part == "lora":
        given = (new.lora or {}).keys() | ({"rank", "alpha"} if new.initial_adapter else set())
        return not (new.settings or {}).get("full") and inner not in given
    if (name == "held_out_fraction" and new.validation_dataset) or (
        name == "replay_fraction" and not new.replay_dataset
    ):
        return False
    return name not in (new.settings or {}) and not (name == "evaluation_steps" and _holds_nothing_out(new))


def _holds_nothing_out(new: NewTuningJob) -> bool:
    return not new.validation_dataset and (new.settings or {}).get("held_out_fraction") == 0.0
