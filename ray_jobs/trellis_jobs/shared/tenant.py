"""One job on the shared trainer: a script from its first to its last line, done in small pieces of work."""

import math
import random
import time
import zlib
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from trellis.artifacts import Manifest
from trellis.errors import Reason
from trellis.lora import BankFullError, LoraWeights
from trellis.v1.worker_pb2 import END_CAUSE_DECLINED, CompleteAttemptRequest
from trellis_jobs.checkpoint import Snapshot
from trellis_jobs.evaluation import Evaluation
from trellis_jobs.failure import JobCancelledError, JobFailedError, JobStoppedError
from trellis_jobs.loss import TokenLosses
from trellis_jobs.shared.attempt import Attempt
from trellis_jobs.shared.divergence import refuse_divergence
from trellis_jobs.shared.engine import Engine
from trellis_jobs.shared.evaluate import added_up, chunk_of, of_sequences, reference_script
from trellis_jobs.shared.handing_in import HandingIn, refuse_without_effect
from trellis_jobs.shared.optimizer import SlotOptimizer
from trellis_jobs.shared.packer import cut
from trellis_jobs.shared.preparation import Prepared, SharedBase, prepare
from trellis_jobs.shared.slots import Slots
from trellis_jobs.shared.totals import Totals
from trellis_jobs.shared.weights import adapter_config, named_tensors, stored_weights
from trellis_jobs.shared.work import Compute, Lane, Piece, Request, Script, Slice, Wait

_PROBE_TOKENS: Final = 128
_MAX_POINTS: Final = 2000
_LOGGED_LINES: Final = 40
_BASE_WEIGHT: Final = 1 / 3
"""Of evaluating the base, which is done beside the training."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all jobs of a trainer share."""

    base: SharedBase
    slots: Slots
    engine: Engine
    readers: Executor
    """Threads that read and encode data."""
    callers: Executor
    """Threads that wait for the server and the object store."""


class Tenant:
    """A job from its claim to its end. All methods are called on the loop's thread, and none of them waits."""

    def __init__(self, attempt: Attempt, around: Surroundings) -> None:
        self.attempt = attempt
        self.totals = Totals()
        self.stopped: JobStoppedError | None = None
        """What the server wishes, once it is being followed."""
        self.handed_in = False
        """Whether the adapter is whole: too late to stop."""
        self.slot: int | None = None
        self._around = around
        self._prepared: Prepared | None = None
        self._optimizer: SlotOptimizer | None = None
        self._reference: Tensor | None = None
        self._saving: Future[None] | None = None
        self._saved_step = -1
        self._measured: Mapping[str, float] = {}
        """What held-out data says of the weights as they are, once it was asked."""
        self._base_done: Future[None] = Future()
        self._turn = zlib.crc32(attempt.tuning_job.encode())
        self._main = Lane(self._run())
        self.lanes = [self._main]

    @property
    def done(self) -> bool:
        """Whether the script has come to its end."""
        return self._main.request is None

    @property
    def optimizer(self) -> SlotOptimizer:
        """The job's own, once it has a place in the bank."""
        assert self._optimizer is not None
        return self._optimizer

    def clear(self) -> None:
        """Forget the gradients of the batch at hand."""
        self.optimizer.clear()
        self._around.engine.clear(self._slot)

    def leave(self, stopped: JobStoppedError) -> None:
        """Give up the work at hand, save what there is, and end as the server wishes."""
        self.stopped = stopped
        for lane in self.lanes:
            lane.close()
        self._main = Lane(self._save_and_stop(stopped))
        self.lanes = [self._main]
        self._main.start()

    def release(self) -> None:
        """Give the place in the bank back."""
        for lane in self.lanes:
            lane.close()
        if self.slot is not None:
            self._around.slots.remove(self.slot)
            self.slot = None

    # The script

    def _run(self) -> Script:
        self.attempt.progress.phase("reading the data")
        # No name is given to what was read: its weights would stay in memory a second time.
        self._settle_in((yield Wait(self._around.readers.submit(prepare, self.attempt, self._around.base))))
        yield from self._refer()
        self._begin_base_evaluation()
        yield from self._train()
        self.attempt.progress.phase("evaluating the base")
        yield Wait(self._base_done)
        yield from self._take_best()
        yield from self._hand_in()

    @property
    def _now(self) -> Prepared:
        assert self._prepared is not None
        return self._prepared

    @property
    def _slot(self) -> int:
        assert self.slot is not None
        return self.slot

    def _settle_in(self, prepared: Prepared) -> None:
        """Take a place in the bank, with the first weights or those of the checkpoint."""
        weights, snapshot = prepared.weights, prepared.snapshot
        assert weights is not None
        self._prepared = replace(prepared, weights=None, snapshot=None)
        try:
            self.slot, self._optimizer = self._around.slots.add(weights, self.attempt.spec)
        except BankFullError as error:
            raise JobFailedError(Reason.TRAINING_FAILED, str(error), cause=END_CAUSE_DECLINED) from None
        if snapshot is None:
            return
        tensors = dict(snapshot.optimizer)
        self._reference = tensors.pop("reference", None)
        prepared.held_out.reference = tensors.pop("held_out_reference", None)
        self.optimizer.restore(tensors)
        self.totals = Totals.from_state(snapshot.step, snapshot.state)
        self._saved_step = snapshot.step

    def _refer(self) -> Script:
        """Log-probabilities of all pairs under the model that training starts from, once."""
        now = self._now
        if not now.objective.needs_reference or self._reference is not None:
            return
        assert self.totals.step == 0
        self.attempt.progress.phase("computing the reference")
        script = partial(reference_script, slot=self._slot, chunk_tokens=now.chunk_tokens)
        self._reference = yield from script(now.data.train)
        now.held_out.reference = yield from script(now.held_out.items)

    def _begin_base_evaluation(self) -> None:
        if self.totals.base_evaluation is not None:
            self._base_done.set_result(None)
            return
        lane = Lane(self._evaluate_base(), _BASE_WEIGHT)
        lane.served = self._main.served
        self.lanes.append(lane)
        lane.start()

    def _evaluate_base(self) -> Script:
        evaluation, metrics = yield from self._now.held_out.evaluate(None, self._around.engine.call)
        self.totals.base_evaluation = evaluation
        self._tell_of_evaluation("The base", evaluation, metrics, 0)
        self._base_done.set_result(None)

    # Training

    def _train(self) -> Script:
        now, totals = self._now, self.totals
        self.attempt.progress.training_from(totals.step, now.plan.total_steps, totals.trained_tokens)
        if totals.step > 0:
            yield from self._conclude()  # what was to come when the attempt before was interrupted
        while totals.step < now.plan.total_steps and not self._impatient():
            yield from self._step()
            yield from self._conclude()
        yield from self._saved()

    def _conclude(self) -> Script:
        """After a step: measure and save, where that is due and not done."""
        totals = self.totals
        lowest = (yield from self._measure_held_out()) if self._measurement_is_due() else False
        last = totals.step == self._now.plan.total_steps or self._impatient()
        if last or lowest or totals.step % self.attempt.spec.checkpoint_steps == 0:
            yield from self._save()

    def _step(self) -> Script:
        now, spec, step = self._now, self.attempt.spec, self.totals.step
        began = time.monotonic()
        items, batch = now.data.train, now.plan.batch(step)
        normaliser = now.objective.normaliser(items, batch)
        runs = cut(batch, items.length, now.chunk_tokens, spec.gradient_accumulation_steps)
        pieces = [
            Piece(
                chunk_of(items, run, self._slot, spec.lora.dropout, _dropout_seed(spec.seed, step, number)),
                partial(self._loss, run, normaliser),
                self._turn + number,
            )
            for number, run in enumerate(runs)
        ]
        found = yield Compute(pieces, gradient=True)
        metrics = now.objective.metrics(added_up(found), normaliser)
        self._around.engine.collect(self._slot)
        norm = self.optimizer.clip()
        refuse_divergence(metrics["train_loss"], norm, step + 1, items, batch)
        rate = self.optimizer.step(step, now.plan.total_steps)
        self._measured = {}
        self._around.engine.publish(self._slot)
        tokens = sum(map(items.length, batch))
        self.attempt.use(tokens=tokens)
        self.totals.stepped(tokens, metrics["train_loss"])
        pace = tokens / max(time.monotonic() - began, 1e-9)
        self._tell_of_step({**metrics, "learning_rate": rate, "gradient_norm": norm, "tokens_per_second": pace})

    def _loss(self, run: Sequence[int], normaliser: float, found: TokenLosses) -> tuple[Tensor, Any]:
        now = self._now
        reference_S = None if self._reference is None else of_sequences(self._reference, now.data.train, run)
        result = now.objective.loss(found, now.data.train, run, normaliser, reference_S)
        return result.loss, result.sums

    def _tell_of_step(self, metrics: dict[str, float]) -> None:
        totals, total = self.totals, self._now.plan.total_steps
        step = totals.step
        self.attempt.progress.stepped(step, totals.loss, totals.trained_tokens)
        if step % math.ceil(total / _MAX_POINTS) == 0 or step == total:
            self.attempt.reporter.metrics(step, metrics)
        if step % math.ceil(total / _LOGGED_LINES) == 0 or step == total:
            pace = metrics["tokens_per_second"]
            self.attempt.log(f"Step {step} of {total}: loss {totals.loss:.4f}, {pace:.0f} tokens/s.")

    def _measurement_is_due(self) -> bool:
        """Between epochs, or as often as wished, and after the last step; each time once."""
        spec, plan, step = self.attempt.spec, self._now.plan, self.totals.step
        if not len(self._now.held_out) or self.totals.valid_loss is not None:
            return False
        return step % (spec.evaluation_steps or plan.epoch_steps) == 0 or step == plan.total_steps

    def _measure_held_out(self) -> Generator[Request, Any, bool]:
        """Whether held-out loss is the lowest so far."""
        totals = self.totals
        self._measured = metrics = yield from self._now.held_out.losses(self._slot)
        lowest = totals.measured(metrics["valid_loss"])
        self._saved_step = -1  # a checkpoint of this step that is there knows nothing of it
        if lowest:
            totals.best_key = self._now.checkpoints.key(totals.step)
        self.attempt.reporter.metrics(totals.step, metrics)
        accuracy = 100 * metrics["valid_token_accuracy"]
        self.attempt.log(f"After step {totals.step}: held-out loss {totals.valid_loss:.4f}, {accuracy:.1f}% of tokens.")
        return lowest

    def _impatient(self) -> bool:
        """Whether held-out loss has not improved for as long as the job is willing to wait."""
        patience = self.attempt.spec.early_stopping_patience
        return patience is not None and self.totals.worse >= patience

    # Checkpoints

    def _save(self) -> Script:
        """Begin to write a checkpoint of this step, once the one before is written."""
        yield from self._saved()
        if self._saved_step != self.totals.step:
            self._saved_step = self.totals.step
            self._saving = self._around.callers.submit(self._write, self._snapshot())

    def _saved(self) -> Script:
        """Wait until what is being written is committed and told."""
        if self._saving is not None:
            yield Wait(self._saving)
            self._saving = None

    def _write(self, snapshot: Snapshot) -> None:
        with self.attempt.spans.part("job.save", step=snapshot.step):
            committed = self._now.checkpoints.save(snapshot)
        self.attempt.reporter.checkpoint(committed)
        self.attempt.log(f"Committed the checkpoint of step {committed.step}.")

    def _snapshot(self) -> Snapshot:
        weights = self._weights()
        tensors = self.optimizer.state()
        if self._reference is not None:
            tensors["reference"] = self._reference
        if self._now.held_out.reference is not None:
            tensors["held_out_reference"] = self._now.held_out.reference
        config = adapter_config(weights, self.attempt.spec, self._around.base.facts)
        return Snapshot(self.totals.step, named_tensors(weights), tensors, self.totals.to_state(), config)

    def _weights(self) -> LoraWeights:
        return self._around.slots.bank.read(self._slot)

    def _save_and_stop(self, stopped: JobStoppedError) -> Script:
        if self.slot is not None and not isinstance(stopped, JobCancelledError):
            self.clear()
            if self.totals.step > 0:
                yield from self._save()
            yield from self._saved()
        raise stopped

    # The end

    def _take_best(self) -> Script:
        """Go back to the weights of the lowest held-out loss, for a job that stops early."""
        totals = self.totals
        if self.attempt.spec.early_stopping_patience is None or totals.best_step in (0, totals.step):
            return
        snapshot = yield Wait(self._around.callers.submit(self._now.checkpoints.load, totals.best_key))
        self._around.slots.overwrite(self._slot, stored_weights(snapshot.config, snapshot.adapter))
        self._measured = {}
        self._around.engine.publish(self._slot)
        message = (
            f"Held-out loss was lowest at step {totals.best_step} ({totals.best_loss:.4f}): its weights are handed in."
        )
        self.attempt.reporter.event(message)
        self.attempt.log(message)

    def _hand_in(self) -> Script:
        around, attempt = self._around, self.attempt
        attempt.progress.phase("checking the adapter")
        with HandingIn(attempt, self._now.store, around.base.facts) as handing:
            yield Wait(around.callers.submit(handing.store, self._weights()))
            change = yield Slice(self._effect)
            attempt.log(f"The adapter changes logits by up to {change:.3g}.")
            attempt.progress.phase("evaluating the adapter")
            tuned, metrics = yield from self._now.held_out.evaluate(self._slot, around.engine.call, self._measured)
            unsaid = {name: value for name, value in metrics.items() if name not in self._measured}
            self._tell_of_evaluation("The adapter", tuned, unsaid, self.totals.step)
            manifest = yield Wait(around.callers.submit(self._manifest, handing, tuned))
        base = self.totals.base_evaluation
        completion = CompleteAttemptRequest(
            adapter_digest=manifest.digest,
            base_evaluation=None if base is None else base.to_proto(),
            tuned_evaluation=tuned.to_proto(),
        )
        self.handed_in = True
        yield Wait(around.callers.submit(attempt.complete, completion))

    def _manifest(self, handing: HandingIn, tuned: Evaluation) -> Manifest:
        totals = self.totals
        self.attempt.reporter.check()
        values = {"steps": totals.step, "train_loss": totals.loss, "trained_tokens": totals.trained_tokens}
        return handing.manifest(totals.base_evaluation, tuned, values)

    def _effect(self) -> float:
        """By how much the adapter changes the logits of the base on the first line."""
        probe_T = self._now.data.train.rows(0)[0].ids_T[:_PROBE_TOKENS]
        return refuse_without_effect(self._logits(probe_T, self._slot), self._logits(probe_T, None))

    @torch.no_grad()
    def _logits(self, probe_T: Tensor, slot: int | None) -> Tensor:
        device = self._around.base.device
        with self._around.engine.call(slot) as model, device.autocast:
            return model(probe_T[None].to(device.target), use_cache=False).logits.float()  # type: ignore[no-any-return]

    def _tell_of_evaluation(self, who: str, evaluation: Evaluation, metrics: Any, step: int) -> None:
        if not evaluation.line_count:
            return
        if metrics:
            self.attempt.reporter.metrics(step, metrics)
        self.attempt.reporter.event(f"{who} on held-out lines: {evaluation}.")
        self.attempt.log(f"{who}: {evaluation}.")


def _dropout_seed(seed: int, step: int, number: int) -> int:
    """Dropout depends on the job's seed, the step and the chunk's number in its batch, not on what came before."""
    return random.Random(f"trellis {seed} {step} {number}").getrandbits(63)
