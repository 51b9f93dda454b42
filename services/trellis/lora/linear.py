"""The linears of a base model with the adapters of a bank beside them."""

from collections.abc import Sequence
from typing import Final, Protocol

import torch
from torch import Tensor, nn

from trellis.lora.bank import AdapterBank, GroupBank
from trellis.lora.groups import LoraGroup
from trellis.lora.ops import Masked, Op, adapted, choose, choose_for_training, native
from trellis.lora.parts import parts_of
from trellis.lora.products import MakeProduct, PlainProduct, Product, TrainingProduct, packed_product
from trellis.lora.segments import Segments


class Dropout(Protocol):
    """Zeros some of what adapters see, and scales the rest."""

    def masks(self, group: LoraGroup, x_TI: Tensor, /) -> Sequence[Masked]:
        """Of the rows that have dropout, on the device and in the dtype of x."""
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
    def is_native(self) -> bool:
        """Whether the kernels of `trellis.native` add what is to be added, if anything is."""
        return self._segments is None or self._op is native

    @property
    def segments(self) -> Segments | None:
        """The forward's segments; None when all rows are the base's alone, which then costs nothing more."""
        return self._segments

    @segments.setter
    def segments(self, segments: Segments | None) -> None:
        self._segments = None if segments is None or segments.is_empty else segments
        if self._segments is not None:
            self._op = choose(self._bank.device, self._bank.dtype)

    def compute(self, x: Tensor, product: Product, bank: GroupBank) -> Tensor:
        """The base's output and what the adapters add to it, with gradients where they are wanted."""
        segments = self._segments
        if segments is None:
            return product(x)
        x_TI = x.reshape(-1, bank.group.in_features)
        if torch.is_grad_enabled() and bank.values_V.requires_grad:
            assert isinstance(product, TrainingProduct), "this model was built for inference only"
            training_op = choose_for_training(x.device, x.dtype)
            masked = () if self.dropout is None else self.dropout.masks(bank.group, x_TI)
            return adapted(x_TI, product, bank, segments, training_op, masked).view(*x.shape[:-1], -1)
        y = product(x)
        assert self._op is not None
        same_dtype = x.dtype == bank.values_V.dtype  # adapters in training are float32, whatever the base is
        op = self._op if same_dtype else choose_for_training(x.device, x.dtype)
        op.add_lora(y.view(-1, bank.group.columns), x_TI, bank, segments)
        return y


class FusedGroup:
    """The linears of one group as one product.

    The model calls them one after another with the same tensor: the first call computes all, the others take their parts.
    """

    def __init__(self, linears: Sequence[nn.Linear], bank: GroupBank, active: ActiveLora, make: MakeProduct) -> None:
        weights = [linear.weight.data for linear in linears]
        self.product: Final = make(torch.cat(weights) if len(weights) > 1 else weights[0], _fuse_biases(linears))
        """Of the frozen weights."""
        self.weights: tuple[Tensor, ...] = ()
        """Of each linear, as views of the one that is multiplied; none where it is in another order."""
        self.biases: tuple[Tensor, ...] = ()
        if isinstance(self.product, PlainProduct):
            self.weights = self.product.weight_OI.split(bank.group.out_features)
            self.biases = () if self.product.bias_O is None else self.product.bias_O.split(bank.group.out_features)
        self.bank: Final = bank
        self.active: Final = active
        self._outs = bank.group.out_features
        self._last = len(linears) - 1
        self._x: Tensor | None = None
        self._parts: tuple[Tensor, ...] = ()

    def part(self, x: Tensor, number: int) -> Tensor:
        """The output of one of the linears."""
        if self._last == 0:
            return self._compute(x)
        if self._x is not x:
            self._parts = parts_of(self._compute(x), self._outs)
            self._x = x
        y = self._parts[number]
        if number == self._last:
            self._x, self._parts = None, ()
        return y

    def _compute(self, x: Tensor) -> Tensor:
        return self.active.compute(x, self.product, self.bank)


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
        self.group: Final = group
        self._number = number

    def forward(self, x: Tensor) -> Tensor:
        """The base's output, and what the active segments' adapters add to it."""
        return self.group.part(x, self._number)


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
    make = make or (packed_product if prepack else PlainProduct)
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
