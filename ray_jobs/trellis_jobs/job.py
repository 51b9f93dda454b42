"""The job from its first to its last line: read, evaluate, train, check, evaluate again, hand in."""

import logging
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import torch

from trellis.objects import ObjectStore
from trellis.spec import TrainSpec
from trellis.v1.tuning_job_pb2 import TuningJobEvent
from trellis.v1.worker_pb2 import AttemptUsage, CompleteAttemptRequest, StartAttemptResponse
from trellis_jobs.artifact import AdapterObjects, manifest_of, reload_checked, save_adapter
from trellis_jobs.batches import Plan
from trellis_jobs.checkpoint import Checkpoints
from trellis_jobs.data import Data, read_data
from trellis_jobs.device import Device, choose_device
from trellis_jobs.evaluation import Evaluation, Evaluator
from trellis_jobs.model import Base, add_adapter, load_base, open_base, target_modules
from trellis_jobs.progress import Progress
from trellis_jobs.reporter import Reporter
from trellis_jobs.step import Stepper
from trellis_jobs.supervised import Totals, Trainer

_PROBE_TOKENS: Final = 128
_log = logging.getLogger(__name__)


def run(work: StartAttemptResponse, reporter: Reporter, code_version: str) -> CompleteAttemptRequest:
    """Do the attempt's work; what to complete it with. Raises JobCancelledError and whatever goes wrong."""
    spec, store = TrainSpec.from_json(work.train_spec_json), ObjectStore.open(work.store_url)
    progress, device = Progress(reporter.progress), choose_device(spec.precision)

    progress.phase("reading the data")
    base = open_base(spec)
    target_modules(spec, base.facts)  # told before the base is loaded, which may take long
    data = read_data(store, spec, work.training_key, work.validation_key, base.tokenizer)
    _tell_of_data(data, reporter)

    progress.phase("loading the base")
    trainer = _trainer(work, spec, store, base, data, device, reporter, progress)
    reporter.check()

    if trainer.totals.base_evaluation is None:
        progress.phase("evaluating the base")
        trainer.totals.base_evaluation = _evaluate_base(trainer, progress)
    seconds = trainer.train()

    progress.phase("checking the adapter")
    objects = AdapterObjects(store, work.adapter_prefix)
    with tempfile.TemporaryDirectory() as scratch:
        folder = _stored(trainer.model, spec, objects, Path(scratch))
        probe_T = data.train.row(0).ids_T[:_PROBE_TOKENS]
        model, _ = reload_checked(trainer.model, folder, base.facts, probe_T, device)
        progress.phase("evaluating the adapter")
        tuned = _evaluate_tuned(trainer, model)
        metrics = _final_metrics(trainer.totals, tuned)
        manifest = manifest_of(folder, spec, metrics=metrics, code_version=code_version, tuning_job=work.tuning_job)
    reporter.check()
    objects.upload_manifest(manifest)
    _log.info("The adapter is stored; its digest is %s.", manifest.digest)
    return CompleteAttemptRequest(
        adapter_digest=manifest.digest,
        base_evaluation=trainer.totals.base_evaluation.to_proto(),
        tuned_evaluation=tuned.to_proto(),
        usage=AttemptUsage(trained_tokens=trainer.totals.trained_tokens, trainer_seconds=seconds),
    )


def _tell_of_data(data: Data, reporter: Reporter) -> None:
    reporter.event(f"Training on {len(data.train)} lines; {len(data.held_out)} are held out.")
    for warning in data.warnings:
        reporter.event(warning, TuningJobEvent.LEVEL_WARNING)


def _trainer(
    work: StartAttemptResponse,
    spec: TrainSpec,
    store: ObjectStore,
    base: Base,
    data: Data,
    device: Device,
    reporter: Reporter,
    progress: Progress,
) -> Trainer:
    model = add_adapter(load_base(base.facts, device), spec, base.facts)
    trainer = Trainer(
        spec=spec,
        plan=Plan.of(spec, len(data.train)),
        model=model,
        stepper=Stepper(model, spec, data.train, device, base.tokenizer.pad_id),
        evaluator=Evaluator(data.held_out, base.tokenizer, device, spec.max_evaluation_lines, reporter.check),
        checkpoints=Checkpoints(store, work.checkpoint_prefix, work.attempt),
        reporter=reporter,
        progress=progress,
        totals=Totals(),
    )
    _resume(trainer, work)
    return trainer


def _resume(trainer: Trainer, work: StartAttemptResponse) -> None:
    if not work.resume_key:
        return
    snapshot = trainer.checkpoints.resume(work.resume_key, work.resume_step)
    if snapshot is None:
        message = "No checkpoint can be read, so training begins anew."
        trainer.reporter.event(message, TuningJobEvent.LEVEL_WARNING)
        return
    trainer.restore(snapshot)
    trainer.reporter.event(f"Training goes on from the checkpoint of step {snapshot.step}.")


def _evaluate_base(trainer: Trainer, progress: Progress) -> Evaluation:
    began = time.monotonic()
    with trainer.model.disable_adapter():
        evaluation = trainer.evaluator.evaluate(trainer.model)
    progress.evaluation_took(time.monotonic() - began)
    _tell_of_evaluation("The base", evaluation, 0, trainer.reporter)
    return evaluation


def _evaluate_tuned(trainer: Trainer, model: Any) -> Evaluation:
    evaluation = trainer.evaluator.evaluate(model)
    _tell_of_evaluation("The adapter", evaluation, trainer.totals.step, trainer.reporter)
    return evaluation


def _tell_of_evaluation(who: str, evaluation: Evaluation, step: int, reporter: Reporter) -> None:
    if evaluation.line_count:
        reporter.metrics(step, evaluation.metrics())
    reporter.event(f"{who} on held-out lines: {evaluation}.")
    _log.info("%s: %s.", who, evaluation)


def _stored(model: torch.nn.Module, spec: TrainSpec, objects: AdapterObjects, scratch: Path) -> Path:
    """Save the adapter, store it, and fetch what was stored."""
    written, read = scratch / "written", scratch / "read"
    save_adapter(model, written, spec)
    objects.upload(written)
    objects.download(read)
    return read


def _final_metrics(totals: Totals, tuned: Evaluation) -> dict[str, Any]:
    base = totals.base_evaluation
    return {
        "base": None if base is None else asdict(base),
        "tuned": asdict(tuned),
        "steps": totals.step,
        "train_loss": totals.loss,
        "trained_tokens": totals.trained_tokens,
    }
