"""Where passes are computed: here. `workers.py` has the other way, over several processes."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from trellis.lora import AdapterBank, LoraWeights
from trellis_jobs.shared.fused import FusedModel
from trellis_jobs.shared.work import Piece


class Engine(Protocol):
    """Computes pieces, and keeps the adapters that they are computed with. Called on the loop's thread alone."""

    bank: AdapterBank
    """The adapters, as the optimizers see them."""

    def compute(self, pieces: Sequence[Piece], *, gradient: bool) -> list[Any]:
        """What the pieces' scripts make of their token losses. Gradients, if wanted, are added to those that are kept."""
        ...

    def call(self, slot: int | None) -> AbstractContextManager[Any]:
        """The model as transformers has it, with one slot's adapter, or none."""
        ...

    def added(self, slot: int, weights: LoraWeights) -> None:
        """An adapter was added to the bank."""
        ...

    def removed(self, slot: int) -> None:
        """An adapter was removed from the bank."""
        ...

    def collect(self, slot: int) -> None:
        """Bring a slot's gradients together in the bank, before its optimizer looks at them."""
        ...

    def publish(self, slot: int) -> None:
        """A slot's weights were changed in the bank."""
        ...

    def clear(self, slot: int) -> None:
        """A slot's gradients were set to zero in the bank."""
        ...


class OneProcess:
    """All is computed in the process that has the loop."""

    def __init__(self, fused: FusedModel) -> None:
        self.fused = fused
        self.bank = fused.bank

    def compute(self, pieces: Sequence[Piece], *, gradient: bool) -> list[Any]:
        """What the pieces' scripts make of their token losses."""
        with torch.set_grad_enabled(gradient):
            losses = self.fused.losses([piece.chunk for piece in pieces])
            done = [piece.finish(found) for piece, found in zip(pieces, losses, strict=True)]
        if gradient:
            self.fused.backward([loss for loss, _ in done if loss is not None])
        return [finding for _, finding in done]

    def call(self, slot: int | None) -> AbstractContextManager[Any]:
        """The model as transformers has it."""
        return self.fused.call(slot)

    def added(self, slot: int, weights: LoraWeights) -> None:
        """Nothing more to do."""

    def removed(self, slot: int) -> None:
        """Nothing more to do."""

    def collect(self, slot: int) -> None:
        """They are together."""

    def publish(self, slot: int) -> None:
        """There is but one bank."""

    def clear(self, slot: int) -> None:
        """There is but one bank."""
