"""All tenants in one padded batch, each with its slice of the rows: how mLoRA (https://arxiv.org/abs/2312.02515) does it.

The base's products are made once for all rows; each adapter's are made one after another on the rows of its tenant. Lines
are padded to the longest of all tenants.

Shapes: B lines of all tenants, T positions, I in-features, O out-features, R rank.
"""

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from tests.bench.training_rig.sequential import Lines, mean_loss, padded
from tests.bench.training_rig.tenant import Hyperparameters, Tenant

Sides = dict[str, tuple[Tensor, Tensor]]
"""An adapter's A (R, I) and B (O, R), by the linear's path."""


class SlicedLinear(nn.Module):
    """A frozen linear, to whose output each tenant's adapter adds on its own rows."""

    def __init__(self, linear: nn.Linear, slices: list[slice]) -> None:
        super().__init__()
        self._linear = linear
        self._slices = slices
        self.adapters: dict[int, tuple[Tensor, Tensor, float]] = {}
        """A, B and scaling, by the tenant's place."""

    def forward(self, x_BTI: Tensor) -> Tensor:
        """(B, T, O)."""
        y_BTO: Tensor = self._linear(x_BTI)
        added = []
        for place, rows in enumerate(self._slices):
            y_bTO = y_BTO[rows]
            if place in self.adapters:
                a_RI, b_OR, scaling = self.adapters[place]
                low_bTR = nn.functional.linear(x_BTI[rows], a_RI)
                y_bTO = y_bTO + (nn.functional.linear(low_bTR, b_OR) * scaling).to(y_bTO.dtype)
            added.append(y_bTO)
        return torch.cat(added)


@dataclass
class MloraStyle:
    """One forward and backward for all tenants, and an optimizer for each."""

    model: Any
    slices: list[slice]
    """Rows of each tenant; the list is that of every linear."""
    parameters: Sequence[Sequence[Tensor]]
    optimizers: Sequence[torch.optim.Optimizer]
    max_grad_norm: float
    autocast: AbstractContextManager[Any]

    @classmethod
    def of(
        cls,
        base: Any,
        tenants: Sequence[Tenant],
        weights: Sequence[Sides],
        told: Hyperparameters,
        autocast: AbstractContextManager[Any] | None = None,
    ) -> Self:
        """On modules of its own, which share the base's weights; the adapters start from copies of these."""
        model: Any = copy.deepcopy(base, {id(tensor): tensor for tensor in [*base.parameters(), *base.buffers()]})
        slices: list[slice] = []
        parameters: list[list[Tensor]] = []
        for place, (tenant, sides) in enumerate(zip(tenants, weights, strict=True)):
            own: list[Tensor] = []
            for path, (a_RI, b_OR) in sides.items():
                pair = [nn.Parameter(side.detach().clone()) for side in (a_RI, b_OR)]
                _sliced(model, path, slices).adapters[place] = (*pair, tenant.alpha / tenant.rank)  # type: ignore[assignment]
                own += pair
            parameters.append(own)
        optimizers = [torch.optim.AdamW(own, lr=told.learning_rate, weight_decay=0.0, fused=True) for own in parameters]
        return cls(model.train(), slices, parameters, optimizers, told.max_grad_norm, autocast or nullcontext())

    def step(self, batches: Sequence[Lines]) -> list[float]:
        """One step of each tenant on its lines; their losses."""
        inputs_BT, targets_BT = padded([ids_T for lines in batches for ids_T in lines])
        self.slices[:] = _slices([len(lines) for lines in batches])
        with self.autocast:
            logits_BTV = self.model(inputs_BT, use_cache=False).logits
            losses = [mean_loss(logits_BTV[rows], targets_BT[rows]) for rows in self.slices]
        torch.stack(losses).sum().backward()
        for own, optimizer in zip(self.parameters, self.optimizers, strict=True):
            nn.utils.clip_grad_norm_(own, self.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        return [float(loss.detach()) for loss in losses]


def _sliced(model: Any, path: str, slices: list[slice]) -> SlicedLinear:
    """The linear at the path, which is replaced if it has not been before."""
    parent, _, name = path.rpartition(".")
    owner = model.get_submodule(parent)
    found = getattr(owner, name)
    if not isinstance(found, SlicedLinear):
        found = SlicedLinear(found, slices)
        setattr(owner, name, found)
    return found


def _slices(counts: Sequence[int]) -> list[slice]:
    ends = [sum(counts[: place + 1]) for place in range(len(counts))]
    return [slice(end - count, end) for end, count in zip(ends, counts, strict=True)]
