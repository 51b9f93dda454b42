"""Which lines each step learns from, and how they are laid out as tensors.

Shapes: B lines, T positions. The order of lines depends on the seed and the epoch alone.
"""

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trellis.spec import TrainSpec
from trellis_jobs.examples import Examples


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines padded on the right. `targets_BT[b, t]` is the token after `inputs_BT[b, t]`, learnt with `weights_BT`.

    No attention mask is needed: attention looks back only, and padding comes last, so no trained position sees it.
    """

    inputs_BT: torch.Tensor
    targets_BT: torch.Tensor
    weights_BT: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        return Batch(self.inputs_BT.to(device), self.targets_BT.to(device), self.weights_BT.to(device))


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a run over `line_count` lines."""

    line_count: int
    batch_size: int
    seed: int
    total_steps: int

    @classmethod
    def of(cls, spec: TrainSpec, line_count: int) -> "Plan":
        """The plan of a spec: all epochs, or fewer when max_steps come first."""
        steps = math.ceil(line_count / spec.batch_size) * spec.epochs
        total = steps if spec.max_steps is None else min(steps, spec.max_steps)
        return cls(line_count, spec.batch_size, spec.seed, total)

    @property
    def epoch_steps(self) -> int:
        """Steps an epoch; the last one may have fewer lines."""
        return math.ceil(self.line_count / self.batch_size)

    def epoch_lines(self, epoch: int) -> list[int]:
        """The indexes of the lines, in the order of this epoch."""
        order = list(range(self.line_count))
        random.Random(f"trellis {self.seed} {epoch}").shuffle(order)
        return order

    def step_lines(self, epoch_lines: Sequence[int], step: int) -> Sequence[int]:
        """The lines of the step after `step` steps are done, of its epoch's lines."""
        start = step % self.epoch_steps * self.batch_size
        return epoch_lines[start : start + self.batch_size]


def split(lines: Sequence[int], examples: Examples, parts: int, call_tokens: int) -> list[list[int]]:
    """The lines of a step as at least `parts` groups of like length, such that computing them costs least.

    A group costs its tokens with padding, and `call_tokens` for being one.
    """
    by_length = sorted(lines, key=lambda index: (-examples.length(index), index))
    size = math.ceil(len(by_length) / parts)
    groups: list[list[int]] = []
    for start in range(0, len(by_length), size):
        part = by_length[start : start + size]
        cuts = _cheapest_cuts([examples.length(index) for index in part], call_tokens)
        groups += [part[begin:end] for begin, end in itertools.pairwise(cuts)]
    return groups


def _cheapest_cuts(lengths: Sequence[int], call_tokens: int) -> list[int]:
    """Where to cut falling lengths, first and last bound included; shortest paths over the bounds."""
    bounds = [0, *(at for at in range(1, len(lengths)) if lengths[at] < lengths[at - 1]), len(lengths)]
    best: dict[int, tuple[float, int]] = {0: (0.0, 0)}
    for number, end in enumerate(bounds[1:], start=1):
        costs = ((best[begin][0] + call_tokens + (end - begin) * lengths[begin], begin) for begin in bounds[:number])
        best[end] = min(costs)
    cuts = [len(lengths)]
    while cuts[-1]:
        cuts.append(best[cuts[-1]][1])
    return cuts[::-1]


def collate(indexes: Sequence[int], examples: Examples, pad_id: int) -> Batch:
    """Lines as one batch."""
    rows = [examples.row(index) for index in indexes]
    length = max(row.ids_T.numel() for row in rows)
    ids_BT = torch.full((len(rows), length), pad_id, dtype=torch.long)
    weights_BT = torch.zeros(len(rows), length)
    for number, row in enumerate(rows):
        ids_BT[number, : row.ids_T.numel()] = row.ids_T
        weights_BT[number, : row.ids_T.numel()] = row.weights_T
    return Batch(ids_BT[:, :-1], ids_BT[:, 1:], weights_BT[:, 1:])
