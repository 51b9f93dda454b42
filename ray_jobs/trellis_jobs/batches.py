"""Which lines each step learns from, and how they are laid out as tensors.

Shapes: B lines, T positions. The order of lines depends on the seed and the epoch alone.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from trellis.spec import TrainSpec
from trellis_jobs.examples import Row


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
    """The steps of a run over `line_count` training lines, with `replay_count` others mixed in.

    Of each batch of `batch_size` lines `replay_size` are replayed, in an order of their own; epochs count training
    lines only. Items are counted as in `trellis_jobs.methods`: the training lines first, then those to replay.
    """

    line_count: int
    batch_size: int
    seed: int
    total_steps: int
    replay_count: int = 0
    replay_size: int = 0
    _orders: dict[str, tuple[int, list[int]]] = field(default_factory=dict, init=False, compare=False, repr=False)

    @classmethod
    def of(cls, spec: TrainSpec, line_count: int, replay_count: int = 0) -> "Plan":
        """The plan of a spec: all epochs, or fewer when max_steps come first."""
        replay_size = spec.replay_size if replay_count else 0
        steps = math.ceil(line_count / (spec.batch_size - replay_size)) * spec.epochs
        total = steps if spec.max_steps is None else min(steps, spec.max_steps)
        return cls(line_count, spec.batch_size, spec.seed, total, replay_count, replay_size)

    @property
    def epoch_steps(self) -> int:
        """Steps an epoch; the last one may have fewer lines."""
        return math.ceil(self.line_count / self._fresh_size)

    def batch(self, step: int) -> list[int]:
        """The items of the step after `step` steps are done; it depends on nothing but the seed and the step."""
        epoch, number = divmod(step, self.epoch_steps)
        start = number * self._fresh_size
        fresh = self._order("", epoch, self.line_count)[start : start + self._fresh_size]
        return [*fresh, *self._replayed(step, len(fresh))]

    @property
    def _fresh_size(self) -> int:
        return self.batch_size - self.replay_size

    def _replayed(self, step: int, fresh: int) -> list[int]:
        """The replayed items of a step: the next ones of an endless row of shuffled passes over them.

        A batch with fewer training lines has fewer of them too, by the same share, but one at least.
        """
        if not self.replay_size:
            return []
        count = max(1, round(self.replay_size * fresh / self._fresh_size))
        passes = (divmod(step * self.replay_size + number, self.replay_count) for number in range(count))
        return [self.line_count + self._order("replay ", turn, self.replay_count)[at] for turn, at in passes]

    def _order(self, which: str, turn: int, count: int) -> list[int]:
        """A shuffled row of indexes; the latest of each kind is kept, as the next step mostly wants it again."""
        kept = self._orders.get(which)
        if kept is None or kept[0] != turn:
            order = list(range(count))
            random.Random(f"trellis {which}{self.seed} {turn}").shuffle(order)
            kept = self._orders[which] = (turn, order)
        return kept[1]


def collate(rows: Sequence[Row], pad_id: int) -> Batch:
    """Sequences as one batch."""
    length = max(row.ids_T.numel() for row in rows)
    ids_BT = torch.full((len(rows), length), pad_id, dtype=torch.long)
    weights_BT = torch.zeros(len(rows), length)
    for number, row in enumerate(rows):
        ids_BT[number, : row.ids_T.numel()] = row.ids_T
        weights_BT[number, : row.ids_T.numel()] = row.weights_T
    return Batch(ids_BT[:, :-1], ids_BT[:, 1:], weights_BT[:, 1:])
