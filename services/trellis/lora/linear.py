"""The linears of a base model with the adapters of a bank beside them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from trellis.lora.bank import AdapterBank, GroupBank
from trellis.lora.groups import LoraGroup
from trellis.lora.ops import Op, choose, choose_for_training, lora
from trellis.lora.segments import Segments
from trellis.native.linear import DifferentiableLinear, PackedLinear, serves


class Dropout(Protocol):
    """Zeros some of what adapters see, and scales the rest."""

    def __call__(self, group: LoraGroup, x_TI: Tensor, /) -> Tensor:
        """What the group's adapters see of x: (T, I), differentiable."""
        ...


class ActiveLora:
    """What the linears of one model add in the forward that is run next."""

    def __init__(self, bank: AdapterBank) -> None:
        self._bank = bank
        self._segments: Segments | None = None
        self._op: Op | None = None
        self.dropout: Dropout | None = None
        """What adapters see of their input while gradients are wanted; None for all of it."""

    @property
    def segments(self) -> Segments | None:
        """The forward's segments; None when all rows are the base's alone, which then costs nothing more."""
        return self._segments

    @segments.setter
    def segments(self, segments: Segments | None) -> None:
        self._segments = None if segments is None or segments.is_empty else segments
        if self._segments is not None:
            self._op = choose(self._bank.device, self._bank.dtype, self._segments)

    def add_to(self, y: Tensor, x: Tensor, bank: GroupBank) -> Tensor:
        """The base's output and what the adapters add to it: in place, or with gradients where they are wanted."""
        segments = self._segments
        if segments is None:
            return y
        y_TO, x_TI = y.view(-1, bank.group.columns), x.reshape(-1, bank.group.in_features)
        if torch.is_grad_enabled() and bank.a_RPI.requires_grad:
            op = choose_for_training(x.device, x.dtype)
            seen_TI = x_TI if self.dropout is None else self.dropout(bank.group, x_TI)
            return (y_TO + lora(seen_TI, bank, segments, op)).view(y.shape)
        assert self._op is not None
        same_dtype = x.dtype == bank.a_RPI.dtype  # adapters in training are float32, whatever the base is
        (self._op if same_dtype else choose_for_training(x.device, x.dtype)).add_lora(y_TO, x_TI, bank, segments)
        return y


Product = Callable[[Tensor], Tensor]
MakeProduct = Callable[[Tensor, Tensor | None], Product]


def plain_product(weight_OI: Tensor, bias_O: Tensor | None) -> Product:
    """x Wᵀ + bias by PyTorch, differentiable."""
    return partial(functional.linear, weight=weight_OI, bias=bias_O)


def training_product(weight_OI: Tensor, bias_O: Tensor | None) -> Product:
    """x Wᵀ + bias, differentiable in x, as quickly as the CPU can; elsewhere by PyTorch."""
    if serves(weight_OI) and serves(weight_OI.T):
        return DifferentiableLinear(weight_OI, bias_O)
    return plain_product(weight_OI, bias_O)


def packed_product(weight_OI: Tensor, bias_O: Tensor | None) -> Product:
    """x Wᵀ + bias in bfloat16, with the weight in the order in which it is read best; for inference on a CPU.

    Measured over all linears of a 135 M Llama: oneDNN's order is 1.4 to 2.7 times as fast as none with 2 to 32 rows (two
    cores with AMX); where there is no AMX, ours is 1.2 to 1.6 times as fast as oneDNN's with 8 to 32 (one core, AVX-512).
    """
    if serves(weight_OI):
        return PackedLinear(weight_OI, bias_O)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI.contiguous(), None)  # noqa: SLF001  named so by PyTorch
    run: Any = torch.ops.mkldnn._linear_pointwise.default  # noqa: SLF001

    def product(x: Tensor) -> Tensor:
        y: Tensor = run(x, packed, bias_O, "none", [], "")
        return y

    return product


class FusedGroup:
    """The linears of one group as one product.

    The model calls them one after another with the same tensor: the first call computes all, the others take their parts.
    """

    def __init__(self, linears: Sequence[nn.Linear], bank: GroupBank, active: ActiveLora, make: MakeProduct) -> None:
        weights, bias_O = [linear.weight.data for linear in linears], _fuse_biases(linears)
        weight_OI = torch.cat(weights) if len(weights) > 1 else weights[0]
        self._product = make(weight_OI, bias_O)
        is_plain = isinstance(self._product, partial)
        self.weights: tuple[Tensor, ...] = weight_OI.split(bank.group.out_features) if is_plain else ()
        """Of each linear, as views of the one that is multiplied; none where it is in another order."""
        self.biases: tuple[Tensor, ...] = (
            bias_O.split(bank.group.out_features) if is_plain and bias_O is not None else ()
        )
        self._bank = bank
        self._active = active
        self._outs = bank.group.out_features
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
        return self._active.add_to(self._product(x), x, self._bank)


class LoraLinear(nn.Module):
    """One linear of a group, in the place where the model calls it.

    Its frozen parameters are views of the group's, so that the model's state_dict is whole and nothing is there twice;
    it has none where the weights lie in another order.
    """

    def __init__(self, linear: nn.Linear, group: FusedGroup, number: int) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        if group.weights:
            self.weight = nn.Parameter(group.weights[number], requires_grad=False)
        if group.biases and linear.bias is not None:
            self.bias = nn.Parameter(group.biases[number], requires_grad=False)
        self._group = group
        self._number = number

    def forward(self, x: Tensor) -> Tensor:
        """The base's output, and what the active segments' adapters add to it."""
        return self._group.part(x, self._number)


def install(
    model: nn.Module,
    groups: Sequence[LoraGroup],
    bank: AdapterBank,
    *,
    prepack: bool | None = None,
    make: MakeProduct | None = None,
) -> ActiveLora:
    """Replace the groups' linears in the model; what is returned says which rows have which adapter.

    The model must be on the bank's device already. `prepack` lays weights out anew (inference only, there is no second
    copy): by default on a CPU in bfloat16. `make` says otherwise how a weight is multiplied.
    """
    active = ActiveLora(bank)
    if prepack is None:
        prepack = bank.device.type == "cpu" and bank.dtype == torch.bfloat16 and _packs_bfloat16()
    make = make or (packed_product if prepack else plain_product)
    for group in groups:
        linears = [model.get_submodule(path) for path in group.parts]
        assert all(isinstance(linear, nn.Linear) for linear in linears)
        fused = FusedGroup(linears, bank.groups[group.name], active, make)  # type: ignore[arg-type]
        for number, (path, linear) in enumerate(zip(group.parts, linears, strict=True)):
            parent, _, name = path.rpartition(".")
            setattr(model.get_submodule(parent), name, LoraLinear(linear, fused, number))  # type: ignore[arg-type]
    return active


def _packs_bfloat16() -> bool:
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())  # noqa: SLF001


def _fuse_biases(linears: Sequence[nn.Linear]) -> Tensor | None:
    biases: list[Tensor | None] = [linear.bias for linear in linears]
    if not any(bias is not None for bias in biases):
        return None
    zeros = (linear.weight.new_zeros(linear.out_features) for linear in linears)
    return torch.cat([zero if bias is None else bias.data for bias, zero in zip(biases, zeros, strict=True)])
