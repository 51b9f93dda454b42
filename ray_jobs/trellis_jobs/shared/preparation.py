"""All that a job needs before its first step, read and encoded off the loop's thread."""

from dataclasses import dataclass

from trellis.bases import BaseFacts
from trellis.errors import Reason
from trellis.lora import LoraWeights
from trellis.objects import ObjectStore
from trellis.tokens import ChatTokenizer
from trellis.v1.tuning_job_pb2 import TuningJobEvent
from trellis_jobs.batches import Plan
from trellis_jobs.checkpoint import Checkpoints, Snapshot
from trellis_jobs.device import Device
from trellis_jobs.failure import JobFailedError
from trellis_jobs.methods.objective import Objective
from trellis_jobs.methods.open import Data, objective_of, read_items
from trellis_jobs.model import dated, target_modules
from trellis_jobs.shared.attempt import Attempt
from trellis_jobs.shared.evaluate import HeldOut
from trellis_jobs.shared.weights import fresh_weights, initial_weights, stored_weights


@dataclass(frozen=True, slots=True)
class SharedBase:
    """The base that all jobs of a trainer have, as it is known without its modules."""

    name: str
    """`baseModels/…`."""
    facts: BaseFacts
    tokenizer: ChatTokenizer
    device: Device
    chunk_tokens: int
    """A batch is cut into chunks of up to so many tokens."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that can take its first step."""

    store: ObjectStore
    data: Data
    objective: Objective
    plan: Plan
    held_out: HeldOut
    checkpoints: Checkpoints
    weights: LoraWeights | None
    """To begin with; let go of once they are in the bank."""
    snapshot: Snapshot | None
    """Likewise; None for a fresh start."""
    chunk_tokens: int
    """Halved for each attempt that ran out of memory."""


def prepare(attempt: Attempt, base: SharedBase) -> Prepared:
    """Read the job's data, and its checkpoint or the adapter to start from. Blocks; raises whatever is wrong with it."""
    spec, work = attempt.spec, attempt.work
    _refuse_other_base(attempt, base)
    names = target_modules(spec, base.facts)
    store = ObjectStore.open(work.store_url)
    tokenizer = dated(base.tokenizer, work)
    data = read_items(store, spec, work, tokenizer)
    _tell_of_data(data, attempt)
    objective = objective_of(spec)
    checkpoints = Checkpoints(store, work.checkpoint_prefix, work.attempt)
    snapshot = _resumed(checkpoints, attempt)
    if snapshot is not None:
        weights = stored_weights(snapshot.config, snapshot.adapter)
    elif work.initial_key:
        weights = initial_weights(store, work.initial_key)
    else:
        weights = fresh_weights(spec, base.facts, names)
    chunk_tokens = max(1, base.chunk_tokens >> work.memory_halvings)
    held_out = HeldOut(data, objective, spec, tokenizer, base.device, chunk_tokens)
    plan = data.plan(spec)
    return Prepared(store, data, objective, plan, held_out, checkpoints, weights, snapshot, chunk_tokens)


def _refuse_other_base(attempt: Attempt, base: SharedBase) -> None:
    spec = attempt.spec
    if spec.base_revision and spec.base_revision != base.facts.revision:
        message = f"{base.name} is no longer the registered one: it has the revision {base.facts.revision}"
        raise JobFailedError(Reason.BASE_MODEL_INVALID, f"{message}, not {spec.base_revision}; register it anew.")
    if spec.tokenizer_digest and spec.tokenizer_digest != base.tokenizer.digest:
        message = f"The tokenizer or chat template of {base.name} is no longer the registered one; register it anew."
        raise JobFailedError(Reason.BASE_MODEL_INVALID, message)


def _tell_of_data(data: Data, attempt: Attempt) -> None:
    attempt.reporter.event(data.told)
    for warning in data.warnings:
        attempt.reporter.event(warning, TuningJobEvent.LEVEL_WARNING)


def _resumed(checkpoints: Checkpoints, attempt: Attempt) -> Snapshot | None:
    if not attempt.work.resume_key:
        return None
    snapshot = checkpoints.resume(attempt.work.resume_key, attempt.work.resume_step)
    if snapshot is None:
        message = "No checkpoint can be read, so training begins anew."
        attempt.reporter.event(message, TuningJobEvent.LEVEL_WARNING)
        return None
    attempt.reporter.event(f"Training goes on from the checkpoint of step {snapshot.step}.")
    return snapshot
