"""The training loop: steps, measurements, checkpoints."""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from trellis.spec import TrainSpec
from trellis_jobs.batches import Plan
from trellis_jobs.checkpoint import Checkpoints, Snapshot
from trellis_jobs.evaluation import Evaluation, Evaluator
from trellis_jobs.failure import JobCancelledError, JobStoppedError
from trellis_jobs.progress import Progress
from trellis_jobs.reporter import Reporter
from trellis_jobs.step import StepOutcome, Stepper

_MAX_POINTS: Final = 2000
_LOGGED_LINES: Final = 40
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Totals:
    """What adds up over the steps, and over attempts."""

    step: int = 0
    trained_tokens: int = 0
    loss: float = math.nan
    base_evaluation: Evaluation | None = None


@dataclass(frozen=True, slots=True)
class Trainer:
    """A run of supervised training; `train` goes through it from where `totals` stands."""

    spec: TrainSpec
    plan: Plan
    model: Any
    stepper: Stepper
    evaluator: Evaluator
    checkpoints: Checkpoints
    reporter: Reporter
    progress: Progress
    totals: Totals

    def train(self) -> float:
        """Do all steps that are left; the seconds that it took."""
        began = time.monotonic()
        totals, plan = self.totals, self.plan
        self.progress.training_from(totals.step, plan.total_steps, totals.trained_tokens)
        self.model.train()
        while totals.step < plan.total_steps:
            epoch = totals.step // plan.epoch_steps
            order = plan.epoch_lines(epoch)
            for step in range(totals.step, min((epoch + 1) * plan.epoch_steps, plan.total_steps)):
                self._step(plan.step_lines(order, step))
            self._finish_epoch(epoch)
        return time.monotonic() - began

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from a checkpoint."""
        with torch.no_grad():
            for name, parameter in self.stepper.parameters.items():
                parameter.copy_(snapshot.adapter[name])
        names = list(self.stepper.parameters)
        state = {
            number: {key: snapshot.optimizer[f"{name}.{key}"].clone() for key in ("step", "exp_avg", "exp_avg_sq")}
            for number, name in enumerate(names)
        }
        groups = self.stepper.optimizer.state_dict()["param_groups"]
        self.stepper.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.totals.step = snapshot.step
        self.totals.trained_tokens = int(snapshot.state["trained_tokens"])
        self.totals.loss = float(snapshot.state["loss"])
        base = snapshot.state["base_evaluation"]
        self.totals.base_evaluation = None if base is None else Evaluation(**base)

    def _step(self, lines: Any) -> None:
        self._stop_if_asked()
        began = time.monotonic()
        outcome = self.stepper.step(lines, self.totals.step, self.plan.total_steps)
        totals = self.totals
        totals.step += 1
        totals.trained_tokens += outcome.tokens
        totals.loss = outcome.loss
        self._measure(outcome, time.monotonic() - began)
        if totals.step % self.spec.checkpoint_steps == 0 or totals.step == self.plan.total_steps:
            self._save()

    def _stop_if_asked(self) -> None:
        try:
            self.reporter.check()
        except JobCancelledError:
            raise
        except JobStoppedError:
            self._save()
            raise

    def _measure(self, outcome: StepOutcome, seconds: float) -> None:
        step, total = self.totals.step, self.plan.total_steps
        self.progress.stepped(step, outcome.loss, self.totals.trained_tokens)
        if step % math.ceil(total / _MAX_POINTS) == 0 or step == total:
            self.reporter.metrics(step, _metrics(outcome, seconds))
        if step % math.ceil(total / _LOGGED_LINES) == 0 or step == total:
            _log.info("Step %d of %d: loss %.4f, %.0f tokens/s.", step, total, outcome.loss, outcome.tokens / seconds)

    def _save(self) -> None:
        totals = self.totals
        base = totals.base_evaluation
        state = {
            "trained_tokens": totals.trained_tokens,
            "loss": totals.loss,
            "base_evaluation": None if base is None else asdict(base),
        }
        adapter = {name: parameter.detach().cpu() for name, parameter in self.stepper.parameters.items()}
        committed = self.checkpoints.save(Snapshot(totals.step, adapter, self._optimizer_state(), state))
        self.reporter.checkpoint(committed)
        self.checkpoints.prune(self.reporter.acknowledged_step)
        _log.info("Committed the checkpoint of step %d.", totals.step)

    def _optimizer_state(self) -> Mapping[str, torch.Tensor]:
        states = self.stepper.optimizer.state
        return {
            f"{name}.{key}": value.detach().cpu()
            for name, parameter in self.stepper.parameters.items()
            for key, value in states[parameter].items()
        }

    def _finish_epoch(self, epoch: int) -> None:
        """A look at held-out loss between epochs; after the last one comes the whole evaluation."""
        if self.totals.step == self.plan.total_steps or not len(self.evaluator):
            return
        loss, accuracy = self.evaluator.losses(self.model)
        self.reporter.metrics(self.totals.step, {"valid_loss": loss, "valid_token_accuracy": accuracy})
        _log.info("After epoch %d: held-out loss %.4f, %.1f%% of tokens.", epoch + 1, loss, 100 * accuracy)


def _metrics(outcome: StepOutcome, seconds: float) -> dict[str, float]:
    return {
        "train_loss": outcome.loss,
        "learning_rate": outcome.learning_rate,
        "gradient_norm": outcome.gradient_norm,
        "train_token_accuracy": outcome.token_accuracy,
        "tokens_per_second": outcome.tokens / seconds,
    }
