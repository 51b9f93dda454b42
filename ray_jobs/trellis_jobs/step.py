"""One optimizer step over the lines of one batch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from trellis.errors import Reason
from trellis.spec import TrainSpec
from trellis_jobs.batches import collate, split
from trellis_jobs.device import Device
from trellis_jobs.examples import Examples
from trellis_jobs.failure import JobFailedError
from trellis_jobs.loss import LossHead
from trellis_jobs.model import trained_parameters
from trellis_jobs.schedule import learning_rate

_SHOWN_LINES: Final = 8
_SMALL_LOSS: Final = 1e-6
"""Under this a model has learnt its lines by heart, and gradients may well be zero."""


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What a step measured; the loss is in nats a trained token, by weight; tokens are without padding."""

    loss: float
    token_accuracy: float
    gradient_norm: float
    learning_rate: float
    tokens: int


class Stepper:
    """A model with its optimizer. A step depends on the weights, the optimizer's state, its lines and its number only."""

    def __init__(self, model: Any, spec: TrainSpec, examples: Examples, device: Device, pad_id: int) -> None:
        self.parameters = trained_parameters(model)
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True
        )
        self._head = LossHead(model, device)
        self._spec = spec
        self._examples = examples
        self._device = device
        self._pad_id = pad_id

    def step(self, lines: Sequence[int], done: int, total_steps: int) -> StepOutcome:
        """The step after `done` steps. Raises JobFailedError (TRAINING_DIVERGED), the weights then as before."""
        torch.manual_seed((self._spec.seed << 32) + done)  # dropout depends on the step, not on what came before
        loss, accuracy = self._accumulate(lines)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self._spec.max_grad_norm))
        self._refuse_divergence(loss, norm, done + 1, lines)
        rate = learning_rate(self._spec, done, total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepOutcome(loss, accuracy, norm, rate, sum(map(self._examples.length, lines)))

    def _accumulate(self, lines: Sequence[int]) -> tuple[float, float]:
        """Gradients of the mean loss over all trained tokens of the lines, however they are split into passes."""
        examples = self._examples
        total_weight = math.fsum(float(examples.row(index).weights_T.sum()) for index in lines)
        losses, correct, count = 0.0, 0, 0
        for group in split(lines, examples, self._spec.gradient_accumulation_steps, self._device.call_tokens):
            found = self._head(collate(group, examples, self._pad_id))
            weighted = found.weighted / total_weight
            weighted.backward()
            losses += float(weighted.detach())
            correct += int(found.correct_N.sum())
            count += found.correct_N.numel()
        return losses, correct / count

    def _refuse_divergence(self, loss: float, norm: float, step: int, lines: Sequence[int]) -> None:
        if not math.isfinite(loss):
            what = f"The loss of step {step} is {loss}"
        elif not math.isfinite(norm):
            what = f"The gradients of step {step} are not finite"
        elif norm == 0.0 and loss > _SMALL_LOSS:
            what = f"The gradients of step {step} are all zero, so nothing is learnt"
        else:
            return
        shown = ", ".join(str(self._examples.lines[index]) for index in lines[:_SHOWN_LINES])
        more = "" if len(lines) <= _SHOWN_LINES else f" and {len(lines) - _SHOWN_LINES} more"
        message = f"{what}. It learnt from lines {shown}{more}. Lower learning_rate, or look at these lines."
        raise JobFailedError(Reason.TRAINING_DIVERGED, message)
