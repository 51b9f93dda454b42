"""One job's optimizer: it sees the job's own rows of the bank and nothing else.

Shapes: R rank rows, P parts of a group, I in-features, O out-features of all parts.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import torch
from torch import Tensor, nn

from trellis.lora import AdapterBank
from trellis.lora.bank import GroupBank
from trellis.spec import TrainSpec
from trellis_jobs.schedule import learning_rate

_STATE: Final = ("step", "exp_avg", "exp_avg_sq")


class SlotOptimizer:
    """AdamW over views of one slot's rows, A (R, P, I) and B (R, O) of each group, with the slot's own clipping.

    The tensors of the bank hold weights and gradients once; only the two moments are here. Rows that pad the rank to a
    multiple of 8 are left out: they are zero and stay it.
    """

    def __init__(self, bank: AdapterBank, slot: int, rank: int, spec: TrainSpec) -> None:
        self._bank = bank
        self._slot = slot
        self._rank = rank
        self._spec = spec
        self._sides = list(_sides(bank, slot))
        self._start = -1
        self.parameters = {name: nn.Parameter(side.detach()[:0]) for name, side in self._sides}
        """By group and side, such as `model.layers.0.mlp.gate_up.A`."""
        self.follow()
        self._optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True
        )

    def follow(self) -> None:
        """See the slot's rows where they are now; to be called whenever the bank may have moved them."""
        start, _ = self._bank.slot_rows(self._slot)
        if start == self._start:
            return
        self._start, stop = start, start + self._rank
        for (_, side), parameter in zip(self._sides, self.parameters.values(), strict=True):
            assert side.grad is not None
            parameter.data = side.detach()[start:stop]
            parameter.grad = side.grad[start:stop]

    def clip(self) -> float:
        """Scale the gradients down to the job's largest norm; the norm that they had, which may not be finite."""
        return float(nn.utils.clip_grad_norm_(self.parameters.values(), self._spec.max_grad_norm))

    def step(self, done: int, total_steps: int) -> float:
        """Change the weights as the step after `done` steps, and clear the gradients; the learning rate."""
        rate = learning_rate(self._spec, done, total_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self.clear()
        return rate

    @torch.no_grad()
    def clear(self) -> None:
        """Set the slot's gradients to zero, padding included, and no others."""
        start, count = self._bank.slot_rows(self._slot)
        torch._foreach_zero_([side.grad[start : start + count] for _, side in self._sides if side.grad is not None])

    def state(self) -> dict[str, Tensor]:
        """Copies of the moments and step counts on the CPU, by parameter and name."""
        states = self._optimizer.state
        return {
            f"{name}.{key}": states[parameter][key].detach().to("cpu", copy=True)
            for name, parameter in self.parameters.items()
            if parameter in states
            for key in _STATE
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on with what `state` gave. Raises LookupError where a moment is missing, ValueError for another shape."""
        found = {
            number: {key: state[f"{name}.{key}"].clone() for key in _STATE}
            for number, name in enumerate(self.parameters)
        }
        for number, (name, parameter) in enumerate(self.parameters.items()):
            if found[number]["exp_avg"].shape != parameter.shape:
                message = f"the moments of {name} have the shape {list(found[number]['exp_avg'].shape)}"
                raise ValueError(f"{message}, not {list(parameter.shape)}")
        groups = self._optimizer.state_dict()["param_groups"]
        self._optimizer.load_state_dict({"state": found, "param_groups": groups})

    @property
    def nbytes(self) -> int:
        """Bytes of the job's weights, gradients and moments, as they lie in memory."""
        _, count = self._bank.slot_rows(self._slot)
        moments = sum(value.nbytes for state in self._optimizer.state.values() for value in state.values())
        return 2 * count * self._bank.bytes_per_row + int(moments)


def lora_parameters(bank: AdapterBank, slot: int, rank: int) -> int:
    """Numbers that a slot trains: A and B of the linears that it adapts."""
    return sum(
        rank * (bank_of.group.in_features + out)
        for bank_of in bank.groups.values()
        for number, out in enumerate(bank_of.group.out_features)
        if float(bank_of.scale_SP[slot, number])
    )


def bytes_per_lora_parameter(bank: AdapterBank, slot: int, rank: int, optimizer: SlotOptimizer) -> float:
    """Resident bytes of a job for each number that it trains; Adam in float32 needs 16 at the least."""
    return optimizer.nbytes / lora_parameters(bank, slot, rank)


def _sides(bank: AdapterBank, slot: int) -> Iterator[tuple[str, Tensor]]:
    """The tensors that hold something of the slot, by name; groups that it leaves alone are not among them."""
    groups: Mapping[str, GroupBank] = bank.groups
    for name, group in groups.items():
        if bool(group.scale_SP[slot].any()):
            yield f"{name}.A", group.a_RPI
            yield f"{name}.B", group.b_RO
