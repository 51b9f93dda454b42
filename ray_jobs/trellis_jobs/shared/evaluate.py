"""What held-out data says of the base and of an adapter, in pieces small enough to share the trainer."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor

from trellis.spec import TrainSpec
from trellis_jobs.answers import Answerer, Question, questions
from trellis_jobs.device import Device
from trellis_jobs.evaluation import MAX_LOSS_LINES, Evaluation, groups_of
from trellis_jobs.loss import TokenLosses
from trellis_jobs.methods.objective import Items, Objective, sequence_log_probabilities
from trellis_jobs.methods.open import Data
from trellis_jobs.shared.chunk import Chunk
from trellis_jobs.shared.divergence import refuse_unmeasured
from trellis_jobs.shared.packer import cut
from trellis_jobs.shared.work import Compute, Piece, Request, Slice

_SLICE_SECONDS: Final = 0.05
Call = Callable[[int | None], AbstractContextManager[Any]]


class HeldOut:
    """A job's held-out data; each method is a script. None of them needs gradients."""

    def __init__(
        self, data: Data, objective: Objective, spec: TrainSpec, tokenizer: Any, device: Device, chunk_tokens: int
    ) -> None:
        self.items = data.held_out
        self._objective = objective
        self._tokenizer = tokenizer
        self._device = device
        self._chunk_tokens = chunk_tokens
        self._questions = questions(data.answers, tokenizer, spec.max_evaluation_lines)
        self.reference: Tensor | None = None
        """Log-probabilities of all sequences under the reference, where the objective needs them."""

    def __len__(self) -> int:
        return len(self.items)

    def losses(self, slot: int | None) -> Generator[Request, Any, Mapping[str, float]]:
        """The objective's measurements, named as for held-out data: `valid_loss`, `valid_token_accuracy`, …."""
        if not len(self.items):
            return {}
        indexes = list(range(0, len(self.items), max(1, -(-len(self.items) // MAX_LOSS_LINES))))
        normaliser = self._objective.normaliser(self.items, indexes)
        pieces = [
            Piece(chunk_of(self.items, run, slot), partial(self._measure, run, normaliser), number)
            for number, run in enumerate(cut(indexes, self.items.length, self._chunk_tokens))
        ]
        found = yield Compute(pieces)
        metrics = self._objective.metrics(added_up(found), normaliser)
        refuse_unmeasured(metrics["train_loss"])
        return {f"valid_{name.removeprefix('train_')}": value for name, value in metrics.items()}

    def evaluate(
        self, slot: int | None, call: Call, measured: Mapping[str, float] | None = None
    ) -> Generator[Request, Any, tuple[Evaluation, Mapping[str, float]]]:
        """Everything, greedy answers included; and the measurements, which are not made again where they are given."""
        metrics = measured or (yield from self.losses(slot))
        exact = yield from self._answers(slot, call)
        answered = len(self._questions)
        evaluation = Evaluation(
            loss=metrics.get("valid_loss", 0.0),
            token_accuracy=metrics.get("valid_token_accuracy", 0.0),
            exact_match=exact / answered if answered else 0.0,
            line_count=len(self.items),
            answered_line_count=answered,
        )
        return evaluation, {**metrics, **(evaluation.metrics() if len(self.items) else {})}

    def _measure(self, run: Sequence[int], normaliser: float, found: TokenLosses) -> tuple[None, Mapping[str, float]]:
        reference_S = None if self.reference is None else of_sequences(self.reference, self.items, run)
        return None, self._objective.loss(found, self.items, run, normaliser, reference_S).sums

    def _answers(self, slot: int | None, call: Call) -> Generator[Request, Any, int]:
        """How many of the questions are answered exactly."""
        longest_first = sorted(self._questions, key=lambda question: -len(question.prompt))
        exact = 0
        for batch in groups_of(longest_first, _room, self._device.pass_tokens):
            with call(slot) as model:
                answerer = Answerer(model, self._tokenizer, self._device, _nothing)
            turns = answerer.tokens(batch)
            answers = None
            while answers is None:
                answers = yield Slice(partial(_some_turns, turns, partial(call, slot)))
            exact += answerer.exact(batch, answers)
        return exact


def reference_script(items: Items, slot: int, chunk_tokens: int) -> Generator[Request, Any, Tensor]:
    """The log-probabilities of all items' sequences under a slot's adapter as it is now, in order; in nats."""
    width = len(items.rows(0)) if len(items) else 0
    found = yield Compute([
        Piece(chunk_of(items, run, slot), partial(_log_probabilities, width * len(run)), number)
        for number, run in enumerate(cut(range(len(items)), items.length, chunk_tokens))
    ])  # fmt: skip
    return torch.cat(found) if found else torch.zeros(0)


def chunk_of(items: Items, run: Sequence[int], slot: int | None, dropout: float = 0.0, seed: int = 0) -> Chunk:
    """A run of items as a chunk."""
    return Chunk(tuple(row for index in run for row in items.rows(index)), slot, dropout, seed)


def of_sequences(values: Tensor, items: Items, run: Sequence[int]) -> Tensor:
    """The values of the run's sequences, of one for each sequence of all items."""
    width = values.numel() // len(items)
    return torch.cat([values[index * width : (index + 1) * width] for index in run])


def added_up(sums: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums of chunks, added up in their order."""
    total: dict[str, float] = {}
    for part in sums:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def _log_probabilities(sequences: int, found: TokenLosses) -> tuple[None, Tensor]:
    return None, sequence_log_probabilities(found, sequences).float().cpu()


def _some_turns(
    turns: Generator[None, None, list[list[int]]], call: Callable[[], AbstractContextManager[Any]]
) -> list[list[int]] | None:
    """The answers, or None when there is more to do than a slice of time allows."""
    until = time.monotonic() + _SLICE_SECONDS
    with call(), torch.no_grad():
        while time.monotonic() < until:
            try:
                next(turns)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]
    return None


def _room(question: Question) -> int:
    return question.room


def _nothing() -> None:
    """Whoever wants to stop is heard between slices."""
