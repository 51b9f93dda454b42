"""The training loop: steps, measurements, checkpoints, stops. All workers run it, in the same order."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from trellis.spec import TrainSpec
from trellis.v1.worker_pb2 import STOP_REQUEST_CANCEL, STOP_REQUEST_UNSPECIFIED
from trellis_jobs.batches import Plan
from trellis_jobs.distributed.computing import Computing, Reference
from trellis_jobs.distributed.measuring import Measuring
from trellis_jobs.distributed.post import Post
from trellis_jobs.distributed.states import Resumed, States
from trellis_jobs.evaluation import Evaluation
from trellis_jobs.failure import JobStoppedError
from trellis_jobs.methods.objective import Items
from trellis_jobs.schedule import learning_rate
from trellis_jobs.shared.divergence import refuse_divergence

_MAX_POINTS: Final = 2000
_LOGGED_LINES: Final = 40
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Totals:
    """What adds up over the steps, and over attempts."""

    step: int = 0
    trained_tokens: int = 0
    loss: float = 0.0
    base_evaluation: Evaluation | None = None
    best_loss: float = math.inf
    best_key: str = ""
    measured: int = 0
    """Measurements since the best one."""
    held_out: Mapping[str, float] = field(default_factory=dict)
    """What held-out data says of the weights as they are, once it was asked; not kept."""

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint's state; JSON knows no infinity."""
        base = self.base_evaluation
        values = {name: getattr(self, name) for name in ("trained_tokens", "loss", "best_key", "measured")}
        best = None if math.isinf(self.best_loss) else self.best_loss
        return {**values, "best_loss": best, "base_evaluation": None if base is None else asdict(base)}

    def restore(self, resumed: Resumed) -> None:
        """Go on from what `to_json` told."""
        state, base = resumed.state, resumed.state["base_evaluation"]
        self.step, self.trained_tokens, self.loss = resumed.step, int(state["trained_tokens"]), float(state["loss"])
        self.best_key, self.measured = str(state["best_key"]), int(state["measured"])
        self.best_loss = math.inf if state["best_loss"] is None else float(state["best_loss"])
        self.base_evaluation = None if base is None else Evaluation(**base)


@dataclass(slots=True)
class References:
    """Log-probabilities under the model that training starts from, where the objective wants them."""

    train: Reference | None = None
    held_out: Reference | None = None

    def to_tensors(self) -> Mapping[str, Tensor]:
        """For a checkpoint."""
        found = {"train": self.train, "held_out": self.held_out}
        return {name: one.values_IS for name, one in found.items() if one is not None}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `to_tensors` told."""
        self.train = Reference(tensors["train"]) if "train" in tensors else None
        self.held_out = Reference(tensors["held_out"]) if "held_out" in tensors else None


@dataclass(frozen=True, slots=True)
class Course:
    """A run of training; `train` goes through it from where `totals` stands."""

    spec: TrainSpec
    plan: Plan
    items: Items
    computing: Computing
    measuring: Measuring
    states: States
    post: Post
    write_adapter: Callable[[Path], None]
    """Writes the adapter as it is into a folder of the first worker, where one is trained."""
    seed: Callable[[int], None]
    """Sets the worker's seed for the step after so many."""
    totals: Totals = field(default_factory=Totals)
    references: References = field(default_factory=References)

    def begin(self) -> None:
        """What comes before the first step: the reference's log-probabilities."""
        if not self.computing.objective.needs_reference or self.references.train is not None:
            return
        self.post.phase("reading the reference")
        self.references.train = self.computing.refer(self.items)
        if self.measuring:
            self.references.held_out = self.computing.refer(self.measuring.held_out)

    def train(self) -> None:
        """Do all steps that are left. Raises JobFailedError and, once a checkpoint is written, JobStoppedError."""
        totals, total = self.totals, self.plan.total_steps
        self.post.training_from(totals.step, total, totals.trained_tokens)
        saved = totals.step
        while totals.step < total and not self._patience_is_over():
            stop = self._step()
            valid_loss, best = self._measure()
            if best or totals.step % self.spec.checkpoint_steps == 0 or totals.step == total:
                self._save(valid_loss, best=best)
                saved = totals.step
            if stop not in {STOP_REQUEST_UNSPECIFIED, STOP_REQUEST_CANCEL} and saved < totals.step:
                self._save(valid_loss, best=False)
            if stop != STOP_REQUEST_UNSPECIFIED:
                raise JobStoppedError(stop)  # type: ignore[arg-type]  # a value of the enum, summed as a number
        if self._patience_is_over() and totals.step < total:
            self.post.event(f"Held-out loss has not improved in {totals.measured} measurements: training ends early.")
        if self.spec.early_stopping_patience and totals.best_key not in {"", self.states.key(totals.step)}:
            self.states.load_weights(totals.best_key)
            totals.held_out = {}

    def _step(self) -> int:
        """One optimizer step; the StopRequest that the first worker has heard."""
        totals, total, began = self.totals, self.plan.total_steps, time.monotonic()
        batch = self.plan.batch(totals.step)
        self.seed(totals.step)
        normaliser = self.computing.objective.normaliser(self.items, batch)
        sums = self.computing.gradients(self.items, batch, self.references.train)
        stop = round(self.computing.team.summed({"stop": float(self.post.stop)})["stop"])
        metrics = dict(self.computing.objective.metrics(sums, normaliser))
        refuse_divergence(metrics["train_loss"], 1.0, totals.step + 1, self.items, batch)
        rate = learning_rate(self.spec, totals.step, total)
        norm = self.computing.engine.step(rate)
        refuse_divergence(metrics["train_loss"], norm, totals.step + 1, self.items, batch)
        tokens = sum(map(self.items.length, batch))
        totals.step, totals.loss, totals.held_out = totals.step + 1, metrics["train_loss"], {}
        totals.trained_tokens += tokens
        speed = tokens / (time.monotonic() - began)
        metrics |= {"learning_rate": rate, "gradient_norm": norm, "tokens_per_second": speed}
        self._tell(metrics, speed)
        return stop

    def _tell(self, metrics: Mapping[str, float], speed: float) -> None:
        step, total, loss = self.totals.step, self.plan.total_steps, self.totals.loss
        self.post.stepped(step, loss, self.totals.trained_tokens)
        if step % math.ceil(total / _MAX_POINTS) == 0 or step == total:
            self.post.metrics(step, metrics)
        if self.computing.team.rank == 0 and (step % math.ceil(total / _LOGGED_LINES) == 0 or step == total):
            _log.info("Step %d of %d: loss %.4f, %.0f tokens/s.", step, total, loss, speed)

    def _measure(self) -> tuple[float | None, bool]:
        """The held-out loss, if it is due, and whether it is the lowest so far."""
        every, totals = self.spec.evaluation_steps or self.plan.epoch_steps, self.totals
        if not self.measuring or (totals.step % every and totals.step != self.plan.total_steps):
            return None, False
        totals.held_out = found = self.measuring.losses(self.references.held_out)
        self.post.metrics(totals.step, found)
        loss = found["valid_loss"]
        if not loss < totals.best_loss:
            totals.measured += 1
            return loss, False
        totals.best_loss, totals.measured = loss, 0
        return loss, True

    def _patience_is_over(self) -> bool:
        patience = self.spec.early_stopping_patience
        return patience is not None and self.totals.measured >= patience

    def _save(self, valid_loss: float | None, *, best: bool) -> None:
        totals = self.totals
        if best:
            totals.best_key = self.states.key(totals.step)
        state = {**totals.to_json(), "valid_loss": valid_loss}
        self.post.checkpoint(
            self.states.save(totals.step, state, self.references.to_tensors(), self.write_adapter, valid_loss)
        )
        if self.computing.team.rank == 0:
            _log.info("Committed the checkpoint of step %d.", totals.step)
