"""Encoded lines, kept flat so that many of them fit in memory."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

import torch

from trellis.tokens import EncodedExample


@dataclass(frozen=True, slots=True)
class Row:
    """One line: `ids_T` and the weights with which each is learnt, up to the last one that is."""

    ids_T: torch.Tensor
    weights_T: torch.Tensor


@dataclass(slots=True)
class Examples:
    """Lines as token ids with weights; what comes after a line's last trained token is left out, as nothing needs it."""

    lines: array[int] = field(default_factory=lambda: array("q"))
    """The number of each line in its file."""
    whole: list[bool] = field(default_factory=list)
    """Whether the line was not cut."""
    _starts: array[int] = field(default_factory=lambda: array("q", [0]))
    _ids: array[int] = field(default_factory=lambda: array("i"))
    _weights: array[float] = field(default_factory=lambda: array("f"))

    def add(self, line: int, example: EncodedExample) -> None:
        """Append a line that has at least one trained token."""
        length = max(index for index, weight in enumerate(example.weights) if weight > 0) + 1
        self._ids.extend(example.ids[:length])
        self._weights.extend(example.weights[:length])
        self._starts.append(len(self._ids))
        self.lines.append(line)
        self.whole.append(not example.cut)

    def selected(self, indexes: list[int]) -> Examples:
        """A copy that has only these lines."""
        chosen = Examples()
        for index in indexes:
            start, end = self._starts[index], self._starts[index + 1]
            chosen._ids.extend(self._ids[start:end])
            chosen._weights.extend(self._weights[start:end])
            chosen._starts.append(len(chosen._ids))
            chosen.lines.append(self.lines[index])
            chosen.whole.append(self.whole[index])
        return chosen

    def extend(self, others: Examples) -> None:
        """Append all lines of others."""
        end = self._starts[-1]
        self._ids.extend(others._ids)
        self._weights.extend(others._weights)
        self._starts.extend(end + start for start in others._starts[1:])
        self.lines.extend(others.lines)
        self.whole.extend(others.whole)

    def __len__(self) -> int:
        return len(self.lines)

    def length(self, index: int) -> int:
        """Tokens of a line."""
        return self._starts[index + 1] - self._starts[index]

    def row(self, index: int) -> Row:
        """A line's tensors."""
        start, end = self._starts[index], self._starts[index + 1]
        ids_T = torch.tensor(self._ids[start:end], dtype=torch.long)
        return Row(ids_T, torch.tensor(self._weights[start:end], dtype=torch.float32))

    def ids(self, index: int) -> list[int]:
        """A line's token ids."""
        return self._ids[self._starts[index] : self._starts[index + 1]].tolist()

    def answer_start(self, index: int) -> int:
        """Where the last run of trained tokens starts: the assistant's last turn, or the completion."""
        start, at = self._starts[index], self._starts[index + 1]
        while at > start and self._weights[at - 1] > 0:
            at -= 1
        return at - start
