"""The shared trainer's core without its process: chunks, passes, and one optimizer a tenant.

Shapes: T positions, I in-features, O out-features, R rank.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from tests.bench.training_rig.sequential import Lines
from tests.bench.training_rig.tenant import Hyperparameters, Tenant
from trellis.bases import BaseFacts
from trellis.lora import LoraPair, LoraWeights
from trellis.spec import Lora, TrainSpec
from trellis_jobs.device import Device
from trellis_jobs.examples import Row
from trellis_jobs.shared.chunk import Chunk
from trellis_jobs.shared.fused import FusedModel
from trellis_jobs.shared.optimizer import SlotOptimizer, bytes_per_lora_parameter
from trellis_jobs.shared.packer import cut
from trellis_jobs.shared.settings import Settings
from trellis_jobs.shared.slots import Slots

Sides = Mapping[str, tuple[Tensor, Tensor]]
"""An adapter's A (R, I) and B (O, R), by the linear's path."""


@dataclass
class Place:
    """One tenant in the bank."""

    tenant: Tenant
    slot: int
    optimizer: SlotOptimizer
    done: int = 0


class SharedStep:
    """A base with a bank, whose tenants are exchanged between cases."""

    def __init__(
        self,
        model: Any,
        facts: BaseFacts,
        device: Device,
        tenants: int,
        rank_rows: int,
        pass_tokens: int | None = None,
    ) -> None:
        """Take over a loaded model; passes are as large as the trainer's unless it is said how large."""
        settings = Settings.read(device)
        self._fused = FusedModel(model, facts, device, rank_rows=rank_rows, max_slots=tenants)
        self._slots = Slots(self._fused.bank)
        self._device = device
        self._chunk_tokens = settings.chunk_tokens
        self._pass_tokens = pass_tokens or settings.pass_tokens
        self._places: list[Place] = []

    @property
    def fused(self) -> FusedModel:
        """The model."""
        return self._fused

    def settle(self, tenants: Sequence[Tenant], weights: Sequence[Sides], told: Hyperparameters) -> Self:
        """Have these tenants, and no others, start from these weights."""
        for place in self._places:
            self._slots.remove(place.slot)
        self._places = []
        for tenant, sides in zip(tenants, weights, strict=True):
            scaling = tenant.alpha / tenant.rank
            pairs = {path: LoraPair(a_RI, b_OR, scaling) for path, (a_RI, b_OR) in sides.items()}
            slot, optimizer = self._slots.add(LoraWeights("", pairs), _spec(tenant, told))
            self._places.append(Place(tenant, slot, optimizer))
        return self

    def step(self, batches: Sequence[Lines]) -> list[float]:
        """One step of each tenant on its lines; their mean losses."""
        learnt = [sum(ids_T.numel() - 1 for ids_T in lines) for lines in batches]
        sums = [torch.zeros((), device=self._device.target) for _ in self._places]
        for some in self._passes(batches):
            found = self._fused.losses([chunk for _, chunk in some])
            parts = [one.weighted / learnt[at] for (at, _), one in zip(some, found, strict=True)]
            self._fused.backward(parts)
            for (at, _), part in zip(some, parts, strict=True):
                sums[at] = sums[at] + part.detach()
        for place in self._places:
            place.optimizer.clip()
            place.optimizer.step(place.done, place.done + 1)
            place.done += 1
        return [float(loss) for loss in sums]

    def bytes_per_parameter(self) -> list[float]:
        """Resident bytes of each tenant for each number that it trains, once it has made a step."""
        bank = self._fused.bank
        return [bytes_per_lora_parameter(bank, place.slot, place.optimizer) for place in self._places]

    def _passes(self, batches: Sequence[Lines]) -> Iterator[list[tuple[int, Chunk]]]:
        """All chunks in the order of their tenants, as many in a pass as the trainer puts there."""
        some: list[tuple[int, Chunk]] = []
        tokens = 0
        for at, chunk in self._chunks(batches):
            if some and tokens + chunk.tokens > self._pass_tokens:
                yield some
                some, tokens = [], 0
            some.append((at, chunk))
            tokens += chunk.tokens
        yield some

    def _chunks(self, batches: Sequence[Lines]) -> Iterator[tuple[int, Chunk]]:
        for at, (place, lines) in enumerate(zip(self._places, batches, strict=True)):
            rows = [Row(ids_T, torch.ones(ids_T.numel())) for ids_T in lines]
            for chosen in cut(range(len(rows)), lambda n, rows=rows: rows[n].ids_T.numel(), self._chunk_tokens):  # type: ignore[misc]
                yield at, Chunk(tuple(rows[number] for number in chosen), place.slot)


def _spec(tenant: Tenant, told: Hyperparameters) -> TrainSpec:
    lora = Lora(tenant.rank, tenant.alpha, 0.0, tenant.targets)
    return TrainSpec(
        base_model="bench",
        base_source="bench",
        base_revision="bench",
        tokenizer_digest="bench",
        training_dataset="bench",
        training_sha256="bench",
        context_length=0,
        lora=lora,
        learning_rate=told.learning_rate,
        max_grad_norm=told.max_grad_norm,
        schedule="constant",
        warmup_ratio=0.0,
    )
