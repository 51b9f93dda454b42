"""A batch's loss over all workers, pass by pass, with gradients or without.

Shapes: B sequences, T positions, N trained tokens of a pass, S sequences of a pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trellis_jobs.batches import Batch, collate
from trellis_jobs.distributed.engine import Engine
from trellis_jobs.distributed.spread import spread
from trellis_jobs.distributed.team import Team
from trellis_jobs.loss import TokenLosses
from trellis_jobs.methods.objective import Items, Objective, sequence_log_probabilities

_REFERENCE_ITEMS = 512
"""So many items are spread at once where there is no batch: long enough to be dealt evenly."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The log-probabilities of items' sequences under the model that training starts from, in nats: (items, sequences)."""

    values_IS: Tensor

    def of(self, chunk: Sequence[int]) -> Tensor:
        """Of the sequences of some items, item by item: (S,)."""
        return self.values_IS[list(chunk)].flatten()


@dataclass(frozen=True, slots=True)
class Computing:
    """How batches are computed; the same on all workers."""

    engine: Engine
    team: Team
    objective: Objective
    pad_id: int
    parts: int
    """A worker's share of a batch is computed in so many passes at least."""
    pass_tokens: int

    def gradients(self, items: Items, batch: Sequence[int], reference: Reference | None) -> dict[str, float]:
        """Add up the gradients of a batch's loss; its sums over all workers."""
        self.engine.train()
        return self._sums(items, batch, reference, self.parts, learns=True)

    def measure(
        self, items: Items, batch: Sequence[int], reference: Reference | None
    ) -> tuple[Mapping[str, float], float]:
        """What the objective reports of items, and its normaliser; no gradients, no dropout."""
        self.engine.train(False)
        normaliser = self.objective.normaliser(items, batch)
        with torch.no_grad():
            sums = self._sums(items, batch, reference, 1, learns=False)
        return self.objective.metrics(sums, normaliser), normaliser

    def refer(self, items: Items) -> Reference:
        """The reference of all items, under the weights as they are."""
        self.engine.train(False)
        found: dict[int, Tensor] = {}
        for start in range(0, len(items), _REFERENCE_ITEMS):
            piece = range(start, min(start + _REFERENCE_ITEMS, len(items)))
            for group, losses in self._pieces(items, piece, 1):
                sequences = len(items.rows(group[0]))
                values_S = sequence_log_probabilities(losses, sequences * len(group)).cpu()
                found |= dict(zip(group, values_S.view(len(group), sequences), strict=True))
        whole = {index: values for part in self.team.gathered(found) for index, values in part.items()}
        return Reference(torch.stack([whole[index] for index in range(len(items))]))

    def _pieces(self, items: Items, batch: Sequence[int], parts: int) -> Iterator[tuple[tuple[int, ...], TokenLosses]]:
        with torch.no_grad():
            for group in self._groups(items, batch, parts):
                chunk = group or (batch[0],)
                yield chunk, self.engine.losses(self._batch(items, chunk))

    def _groups(self, items: Items, batch: Sequence[int], parts: int) -> tuple[tuple[int, ...], ...]:
        shares = spread(batch, items, self.team.size, parts, self.pass_tokens)
        return shares[self.team.rank].groups

    def _sums(
        self, items: Items, batch: Sequence[int], reference: Reference | None, parts: int, *, learns: bool
    ) -> dict[str, float]:
        normaliser = self.objective.normaliser(items, batch)
        sums: dict[str, float] = {}
        groups = self._groups(items, batch, parts)
        for number, group in enumerate(groups, start=1):
            # A worker without items computes along, as every pass is a collective of all: an item that counts nothing.
            chunk, share = (group, 1.0) if group else ((batch[0],), 0.0)
            found = self.engine.losses(self._batch(items, chunk))
            reference_S = None if reference is None else reference.of(chunk).to(found.losses_N.device)
            part = self.objective.loss(found, items, chunk, normaliser, reference_S)
            if learns:
                self.engine.backward(part.loss * share, last=number == len(groups))
            for name, value in part.sums.items():
                sums[name] = sums.get(name, 0.0) + (value if group else 0.0)
        return self.team.summed(sums)

    def _batch(self, items: Items, chunk: Sequence[int]) -> Batch:
        return collate([row for index in chunk for row in items.rows(index)], self.pad_id)
