"""What every method of training is to the trainers: items to learn from, and a loss over the tokens of their lines.

Shapes: N trained tokens of a chunk, S sequences of a chunk.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from trellis_jobs.examples import Row
from trellis_jobs.loss import TokenLosses


class Items(Protocol):
    """What a method learns from, one by one: a line, or the two sequences of a preference."""

    def __len__(self) -> int: ...

    def rows(self, index: int) -> tuple[Row, ...]:
        """The item's sequences; each item of a job has the same number of them."""
        ...

    def length(self, index: int) -> int:
        """Tokens of all its sequences."""
        ...

    def line(self, index: int) -> int:
        """The number of its line in the file, from one; negative for a line of the replay file."""
        ...

    def weight(self, index: int) -> float:
        """Its part of a batch's normaliser: the weights of its trained tokens, or the weight of its pair."""
        ...


@dataclass(frozen=True, slots=True)
class ChunkLoss:
    """A chunk's part of its batch's loss, and sums from which the batch's measurements are made."""

    loss: Tensor
    """A scalar with gradient; the batch's loss is the sum over its chunks."""
    sums: Mapping[str, float]
    """Such as `loss`, `correct`, `tokens`: added up over the batch's chunks, in their order."""


class Objective(Protocol):
    """What a method minimises. A batch is computed chunk by chunk, where a chunk has some of its items, whole."""

    @property
    def needs_reference(self) -> bool:
        """Whether `loss` wants the sequences' log-probabilities under the model that training starts from."""
        ...

    def normaliser(self, items: Items, batch: Sequence[int]) -> float:
        """What a batch's loss is divided by, however it is computed: the sum of its items' weights."""
        ...

    def loss(
        self, found: TokenLosses, items: Items, chunk: Sequence[int], normaliser: float, reference_S: Tensor | None
    ) -> ChunkLoss:
        """The loss of a chunk of items, given the losses of their trained tokens.

        `found.rows_N` counts the chunk's sequences, item by item. `reference_S` are their
        `sequence_log_probabilities` under the model that training starts from, where they are needed.
        """
        ...

    def metrics(self, sums: Mapping[str, float], normaliser: float) -> Mapping[str, float]:
        """What is reported of a batch: `train_loss`, `train_token_accuracy`, and the method's own."""
        ...


def total_weight(items: Items, batch: Sequence[int]) -> float:
    """The sum of the items' weights."""
    return math.fsum(items.weight(index) for index in batch)


def sequence_log_probabilities(found: TokenLosses, sequences: int) -> Tensor:
    """The sum of the trained tokens' log-probabilities, times their weights, of each sequence: (S,), in nats."""
    sums_S = found.losses_N.new_zeros(sequences)
    return sums_S.index_add(0, found.rows_N, -found.losses_N * found.weights_N)
