"""Items as sequences of token ids, kept flat so that many of them fit in memory."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from trellis.tokens import EncodedExample
from trellis_jobs.examples import Examples, Row


@dataclass(frozen=True, slots=True)
class EncodedItem:
    """One item before it is kept: its sequences, and its part of a batch's normaliser."""

    sequences: tuple[EncodedExample, ...]
    weight: float

    @property
    def cut(self) -> bool:
        """Whether one of its sequences was longer than allowed."""
        return any(sequence.cut for sequence in self.sequences)

    @property
    def learnable(self) -> bool:
        """Whether there is something to learn from each of its sequences."""
        return self.weight > 0 and all(sequence.trainable_tokens for sequence in self.sequences)


@dataclass(slots=True)
class SequenceItems:
    """Items of `width` sequences each; item i has the sequences from `width * i` on."""

    width: int = 1
    sequences: Examples = field(default_factory=Examples)
    weights: array[float] = field(default_factory=lambda: array("d"))

    def add(self, line: int, item: EncodedItem) -> None:
        """Append an item of a line from which something can be learnt."""
        for sequence in item.sequences:
            self.sequences.add(line, sequence)
        self.weights.append(item.weight)

    def selected(self, indexes: Sequence[int]) -> SequenceItems:
        """A copy that has only these items."""
        numbers = [index * self.width + part for index in indexes for part in range(self.width)]
        weights = array("d", (self.weights[index] for index in indexes))
        return SequenceItems(self.width, self.sequences.selected(numbers), weights)

    def extend(self, others: SequenceItems) -> None:
        """Append all items of others."""
        self.sequences.extend(others.sequences)
        self.weights.extend(others.weights)

    def __len__(self) -> int:
        return len(self.weights)

    def rows(self, index: int) -> tuple[Row, ...]:
        """The item's sequences."""
        return tuple(self.sequences.row(number) for number in self._numbers(index))

    def length(self, index: int) -> int:
        """Tokens of all its sequences."""
        return sum(map(self.sequences.length, self._numbers(index)))

    def line(self, index: int) -> int:
        """The number of its line in the file, from one; negative for a line of the replay file."""
        return self.sequences.lines[index * self.width]

    def weight(self, index: int) -> float:
        """Its part of a batch's normaliser."""
        return self.weights[index]

    def _numbers(self, index: int) -> range:
        return range(index * self.width, (index + 1) * self.width)
