"""The jobs' places in the adapter bank."""

import torch

from trellis.lora import AdapterBank, HostAdapter, LoraWeights
from trellis.spec import TrainSpec
from trellis_jobs.shared.engine import Engine
from trellis_jobs.shared.optimizer import SlotOptimizer


class Slots:
    """Gives jobs their rows of the bank, and tells their optimizers when those have moved."""

    def __init__(self, bank: AdapterBank, engine: Engine | None = None) -> None:
        self.bank = bank
        self._engine = engine
        self._optimizers: dict[int, SlotOptimizer] = {}

    def add(self, weights: LoraWeights, spec: TrainSpec) -> tuple[int, SlotOptimizer]:
        """A place for an adapter to train, and its optimizer. Raises BankFullError and ArtifactError."""
        groups = [bank.group for bank in self.bank.groups.values()]
        slot = self.bank.add(HostAdapter.pack(weights, groups, self.bank.dtype))
        if self._engine is not None:
            self._engine.added(slot, weights)
        for optimizer in self._optimizers.values():
            optimizer.follow()
        self._optimizers[slot] = SlotOptimizer(self.bank, slot, weights.rank, spec)
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
        start, _ = self.bank.slot_rows(slot)
        for group in self.bank.groups.values():
            outs = group.b_RO.split(group.group.out_features, 1)
            for number, part in enumerate(group.group.parts):
                pair = weights.pairs.get(part)
                if pair is not None:
                    rows = slice(start, start + pair.rank)
                    group.a_RPI[rows, number] = pair.a_RI.to(group.a_RPI)
                    outs[number][rows] = pair.b_OR.T.to(group.b_RO)
