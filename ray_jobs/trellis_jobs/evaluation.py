"""What held-out data says of a model."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch

from trellis.tokens import ChatTokenizer
from trellis.v1.tuning_job_pb2 import TuningJob
from trellis_jobs.answers import Answerer, Question, questions
from trellis_jobs.batches import collate
from trellis_jobs.device import Device
from trellis_jobs.examples import Examples
from trellis_jobs.loss import LossHead

MAX_LOSS_LINES = 5000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Loss in nats a trained token, by weight; shares of trained tokens ranked first and of lines answered exactly."""

    loss: float
    token_accuracy: float
    exact_match: float
    line_count: int
    answered_line_count: int

    def to_proto(self) -> TuningJob.Evaluation:
        """The evaluation as it is reported."""
        return TuningJob.Evaluation(**asdict(self))

    def metrics(self) -> dict[str, float]:
        """The evaluation as metrics of a step."""
        values = {"valid_loss": self.loss, "valid_token_accuracy": self.token_accuracy}
        return values | ({"valid_exact_match": self.exact_match} if self.answered_line_count else {})

    def __str__(self) -> str:
        matched = (
            f", {self.exact_match:.1%} of {self.answered_line_count} answers exact" if self.answered_line_count else ""
        )
        return f"loss {self.loss:.4f}, {self.token_accuracy:.1%} of tokens{matched} ({self.line_count} held-out lines)"


class Evaluator:
    """Evaluates models on the same held-out lines; `check` is called between batches and may raise to stop."""

    def __init__(
        self, held_out: Examples, tokenizer: ChatTokenizer, device: Device, max_answers: int, check: Callable[[], None]
    ) -> None:
        self._examples = held_out
        self._tokenizer = tokenizer
        self._device = device
        self._check = check
        self._questions: list[Question] = questions(held_out, tokenizer, max_answers)

    def __len__(self) -> int:
        return len(self._examples)

    def losses(self, model: Any) -> tuple[float, float]:
        """The loss and the token accuracy; NaN where no line is held out."""
        head = LossHead(model, self._device)
        total = weight = correct = tokens = 0.0
        with _evaluating(model):
            for indexes in self._loss_batches():
                self._check()
                found = head(collate(indexes, self._examples, self._tokenizer.pad_id))
                total += float(found.weighted)
                weight += float(found.weights_N.sum())
                correct += int(found.correct_N.sum())
                tokens += found.correct_N.numel()
        return (total / weight, correct / tokens) if tokens else (0.0, 0.0)

    def evaluate(self, model: Any) -> Evaluation:
        """Everything, greedy answers included."""
        loss, accuracy = self.losses(model)
        answerer = Answerer(model, self._tokenizer, self._device, self._check)
        with _evaluating(model):
            matched = sum(answerer.count_exact(batch) for batch in self._answer_batches())
        answered = len(self._questions)
        return Evaluation(loss, accuracy, matched / answered if answered else 0.0, len(self._examples), answered)

    def _loss_batches(self) -> Iterator[list[int]]:
        count = len(self._examples)
        step = max(1, -(-count // MAX_LOSS_LINES))
        indexes = sorted(range(0, count, step), key=lambda index: (-self._examples.length(index), index))
        yield from groups_of(indexes, self._examples.length, self._device.pass_tokens)

    def _answer_batches(self) -> Iterator[list[Question]]:
        longest_first = sorted(self._questions, key=lambda question: -len(question.prompt))
        yield from groups_of(longest_first, lambda question: question.room, self._device.pass_tokens)


def groups_of(items: Sequence[T], size_of: Callable[[T], int], budget: int) -> Iterator[list[T]]:
    """Runs of items, the largest first, that with padding stay within the budget; at least one item each."""
    group: list[T] = []
    largest = 0
    for item in items:
        largest = max(largest, size_of(item))
        if group and largest * (len(group) + 1) > budget:
            yield group
            group, largest = [], size_of(item)
        group.append(item)
    if group:
        yield group


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """No gradients and no dropout inside, and what was before afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
