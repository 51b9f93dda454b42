"""The base model with a fresh adapter on it."""

import logging
from dataclasses import dataclass
from datetime import UTC
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from trellis.base_cache.waiting import read_base_in_time
from trellis.bases import BaseFacts
from trellis.errors import FieldViolation, InvalidArgument, Reason
from trellis.spec import TrainSpec
from trellis.tokens import ChatTokenizer
from trellis.v1.worker_pb2 import StartAttemptResponse
from trellis_jobs.device import Device
from trellis_jobs.failure import JobFailedError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Base:
    """The base model, checked to be the one that was registered."""

    facts: BaseFacts
    tokenizer: ChatTokenizer


def open_base(spec: TrainSpec) -> Base:
    """Find the base; raises BaseModelError, or JobFailedError when it is not the registered one."""
    facts = read_base_in_time(spec.base_source, spec.base_revision)
    tokenizer = ChatTokenizer.load(facts.path)
    if spec.tokenizer_digest and tokenizer.digest != spec.tokenizer_digest:
        message = (
            f"The tokenizer or chat template of {spec.base_model} is no longer the registered one; register it anew."
        )
        raise JobFailedError(Reason.BASE_MODEL_INVALID, message)
    return Base(facts, tokenizer)


def dated(tokenizer: ChatTokenizer, work: StartAttemptResponse) -> ChatTokenizer:
    """For chat templates that write today's date: the day of the job, so that an attempt on a later one reads the same."""
    if not work.HasField("job_create_time"):
        return tokenizer
    return tokenizer.at(work.job_create_time.ToDatetime(UTC))


def load_base(facts: BaseFacts, device: Device) -> torch.nn.Module:
    """The base's modules, frozen."""
    transformers_logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(facts.path, dtype=device.dtype, local_files_only=True)
    model.requires_grad_(False)
    model.config.use_cache = False
    return model.to(device.target)  # type: ignore[no-any-return]


def add_adapter(base: torch.nn.Module, spec: TrainSpec, facts: BaseFacts) -> Any:
    """A PeftModel with an adapter that changes nothing yet; its first weights depend on the seed alone."""
    names = target_modules(spec, facts)
    torch.manual_seed(spec.seed)
    config = LoraConfig(
        r=spec.lora.rank,
        lora_alpha=spec.lora.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=spec.lora.dropout,
        target_modules=list(names),
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    adapted = sum(1 for name, _ in model.named_modules() if name.endswith(".lora_A"))
    expected = sum(1 for path in facts.linear_shapes if _fits(path, names))
    if adapted != expected:
        message = f"{facts.architecture} is not supported: its modules are not the linears that its weights tell of"
        raise JobFailedError(Reason.BASE_MODEL_INVALID, f"{message} ({adapted} against {expected}).")
    _log.info("Adapting %d linear modules: %s.", adapted, ", ".join(names))
    return model


def target_modules(spec: TrainSpec, facts: BaseFacts) -> tuple[str, ...]:
    """The modules to adapt, all linears when the spec names none. Raises InvalidArgument for one that is not there."""
    names = spec.lora.target_modules or facts.linear_names
    unknown = [name for name in names if not any(_fits(path, (name,)) for path in facts.linear_shapes)]
    if unknown:
        message = (
            f"{spec.base_model} has no linear module {unknown[0]!r} to adapt; it has {', '.join(facts.linear_names)}."
        )
        violations = (FieldViolation("tuning_job.supervised.lora.target_modules", message),)
        raise InvalidArgument(Reason.INVALID_FIELD, message, violations=violations)
    return tuple(sorted(set(names)))


def _fits(path: str, names: tuple[str, ...]) -> bool:
    return any(path == name or path.endswith("." + name) for name in names)
