"""The jobs' places in the adapter bank."""

import torch

from trellis.lora import AdapterBank, HostAdapter, LoraWeights
from trellis.spec import TrainSpec
from trellis_jobs.shared.engine import Engine
from trellis_jobs.shared.optimizer import SlotOptimizer


class Slots:
    """Gives jobs their piece of the bank, and tells their optimizers when that has moved."""

    def __init__(self, bank: AdapterBank, engine: Engine | None = None) -> None:
        self.bank = bank
        self._engine = engine
        self._optimizers: dict[int, SlotOptimizer] = {}

    def add(self, weights: LoraWeights, spec: TrainSpec) -> tuple[int, SlotOptimizer]:
        """A place for an adapter to train, and its optimizer. Raises BankFullError and ArtifactError."""
        slot = self.bank.add(self._packed(weights))
        if self._engine is not None:
            self._engine.added(slot, weights)
        for optimizer in self._optimizers.values():
            optimizer.follow()
        self._optimizers[slot] = SlotOptimizer(self.bank, slot, spec)
        return slot, self._optimizers[slot]

    def remove(self, slot: int) -> None:
        """Free a job's place."""
        del self._optimizers[slot]
        self.bank.remove(slot)
        if self._engine is not None:
            self._engine.removed(slot)

    @torch.no_grad()
    def overwrite(self, slot: int, weights: LoraWeights) -> None:
        """Give a slot other weights of the same shape; its optimizer keeps its state."""
        self._optimizers[slot].parameter.copy_(self._packed(weights).blob)

    def _packed(self, weights: LoraWeights) -> HostAdapter:
        return HostAdapter.pack(weights, [bank.group for bank in self.bank.groups.values()], self.bank.dtype)
