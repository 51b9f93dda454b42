"""Which rows of a step belong to which adapter."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from trellis.native.lora import SegmentTable


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive rows of one adapter."""

    token: int
    """Its first row in the batch."""
    tokens: int
    slot: int

    @property
    def span(self) -> slice:
        """Its rows in the batch."""
        return slice(self.token, self.token + self.tokens)


@dataclass(frozen=True)
class Segments:
    """A step's segments, made once and shared by all layers; rows in none of them are the base's alone."""

    all: tuple[Segment, ...]
    tokens: int
    """Rows of the whole batch."""
    kept: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """What an op made of them for its own use, by the op's name."""

    @classmethod
    def of_runs(cls, runs: Sequence[tuple[int | None, int]]) -> Self:
        """From (slot or None, count of rows) in the order of the batch; neighbours of one slot become one segment."""
        found, token = [], 0
        for slot, run in groupby(runs, key=lambda item: item[0]):
            count = sum(tokens for _, tokens in run)
            if slot is not None and count:
                found.append(Segment(token, count, slot))
            token += count
        return cls(tuple(found), token)

    @classmethod
    def apart(cls, runs: Sequence[tuple[int | None, int]]) -> Self:
        """As `of_runs`, but every run is a segment by itself: its sums take in no neighbour of the same slot."""
        found, token = [], 0
        for slot, count in runs:
            if slot is not None and count:
                found.append(Segment(token, count, slot))
            token += count
        return cls(tuple(found), token)

    @classmethod
    def sort(cls, slots_T: Sequence[int | None]) -> tuple[Tensor, Self]:
        """For rows in any order: the order (a permutation, stable) that makes segments of them, and these."""
        order = sorted(range(len(slots_T)), key=lambda token: -1 if (slot := slots_T[token]) is None else slot)
        return torch.tensor(order, dtype=torch.int64), cls.of_runs([(slots_T[token], 1) for token in order])

    @property
    def is_empty(self) -> bool:
        """Whether all rows are the base's alone."""
        return not self.all

    @cached_property
    def table(self) -> Tensor:
        """(segments, 3) int32: first row, rows and slot of each segment."""
        rows = np.array([(s.token, s.tokens, s.slot) for s in self.all], dtype=np.int32)
        return torch.from_numpy(rows.reshape(-1, 3))

    @cached_property
    def native(self) -> SegmentTable:
        """The table as the C++ kernels take it."""
        return SegmentTable(self.table)
