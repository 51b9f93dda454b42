"""The linears of a base model with the adapters of a bank beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from trellis.lora.bank import AdapterBank, GroupBank
from trellis.lora.groups import LoraGroup
from trellis.lora.ops import Op, choose
from trellis.lora.segments import Segments


@dataclass(slots=True)
class ActiveLora:
    """What the linears of one model add in the forward that is run next."""

    op: Op
    segments: Segments | None = None
    """None when all rows are the base's alone, which then costs nothing more."""


class Product(Protocol):
    """x Wᵀ + bias of a group's fused weight."""

    def __call__(self, x: Tensor) -> Tensor: ...


class PlainProduct:
    """By PyTorch, differentiable."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        self.weight_OI, self.bias_O = weight_OI, bias_O

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight_OI, self.bias_O)


class PackedProduct:
    """By oneDNN, with the weight in the order in which it reads it: twice as fast for a few rows on a CPU, in bfloat16."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), None)
        self._bias_O = bias_O
        self._run: Any = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = self._run(x, self._weight, self._bias_O, "none", [], "")
        return y


class FusedGroup:
    """The linears of one group as one product.

    The model calls them one after another with the same tensor: the first call computes all, the others take their parts.
    """

    def __init__(self, linears: Sequence[nn.Linear], bank: GroupBank, active: ActiveLora, prepack: bool) -> None:
        weight_OI = (
            torch.cat([linear.weight.data for linear in linears]) if len(linears) > 1 else linears[0].weight.data
        )
        bias_O = _fuse_biases(linears)
        self.product: Product = (PackedProduct if prepack else PlainProduct)(weight_OI, bias_O)
        self._bank = bank
        self._active = active
        self._outs = bank.group.out_features
        self._columns = bank.group.columns
        self._in_features = bank.group.in_features
        self._last = len(linears) - 1
        self._x: Tensor | None = None
        self._parts: tuple[Tensor, ...] = ()

    def part(self, x: Tensor, number: int) -> Tensor:
        """The output of one of the linears."""
        if self._last == 0:
            return self._compute(x)
        if self._x is not x:
            self._parts = self._compute(x).split(self._outs, -1)
            self._x = x
        y = self._parts[number]
        if number == self._last:
            self._x, self._parts = None, ()
        return y

    def _compute(self, x: Tensor) -> Tensor:
        y = self.product(x)
        segments = self._active.segments
        if segments is not None:
            y_TO, x_TI = y.view(-1, self._columns), x.reshape(-1, self._in_features)
            self._active.op.add_lora(y_TO, x_TI, self._bank, segments)
        return y


class LoraLinear(nn.Module):
    """One linear of a group, in the place where the model calls it."""

    def __init__(self, linear: nn.Linear, group: FusedGroup, number: int) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._group = group
        self._number = number

    def forward(self, x: Tensor) -> Tensor:
        """The base's output, and what the active segments' adapters add to it."""
        return self._group.part(x, self._number)


def install(
    model: nn.Module, groups: Sequence[LoraGroup], bank: AdapterBank, *, prepack: bool | None = None
) -> ActiveLora:
    """Replace the groups' linears in the model; what is returned says which rows have which adapter.

    `prepack` lays weights out for oneDNN (inference only, there is no second copy): by default on a CPU in bfloat16.
    """
    active = ActiveLora(choose(bank.device, bank.dtype))
    if prepack is None:
        prepack = bank.device.type == "cpu" and bank.dtype == torch.bfloat16 and torch.backends.mkldnn.is_available()
    for group in groups:
        linears = [model.get_submodule(path) for path in group.parts]
        assert all(isinstance(linear, nn.Linear) for linear in linears)
        fused = FusedGroup(linears, bank.groups[group.name], active, prepack)  # type: ignore[arg-type]
        for number, (path, linear) in enumerate(zip(group.parts, linears, strict=True)):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, LoraLinear(linear, fused, number))  # type: ignore[arg-type]
    return active


def _fuse_biases(linears: Sequence[nn.Linear]) -> Tensor | None:
    if all(linear.bias is None for linear in linears):
        return None
    return torch.cat(
        [
            linear.bias.data if linear.bias is not None else linear.weight.new_zeros(linear.out_features)
            for linear in linears
        ]
    )
