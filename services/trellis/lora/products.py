"""Products with the frozen weight of a base's linear: for inference, and for training, which wants the gradient of x.

Tensors' shapes: I in-features, O out-features.
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from trellis.native.linear import DifferentiableLinear, PackedLinear, serves, takes

Product = Callable[[Tensor], Tensor]
"""x Wᵀ + bias: (…, I) to (…, O)."""
MakeProduct = Callable[[Tensor, Tensor | None], Product]
"""From (O, I) and (O), if there is a bias."""


@runtime_checkable
class TrainingProduct(Protocol):
    """One whose two directions can be had apart, too."""

    @property
    def forth(self) -> Product:
        """x Wᵀ + bias, a fresh tensor."""
        ...

    @property
    def back(self) -> Product:
        """From the gradient of the result to that of x, a fresh tensor."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """Differentiable in x."""
        ...


class PlainProduct:
    """By PyTorch, anywhere."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        self.weight_OI, self.bias_O = weight_OI, bias_O

    def __call__(self, x: Tensor) -> Tensor:
        """Differentiable in x."""
        return functional.linear(x, self.weight_OI, self.bias_O)

    def forth(self, x: Tensor) -> Tensor:
        """The same."""
        return functional.linear(x, self.weight_OI, self.bias_O)

    def back(self, grad_y: Tensor) -> Tensor:
        """The gradient of x."""
        return grad_y @ self.weight_OI


def training_product(weight_OI: Tensor, bias_O: Tensor | None) -> TrainingProduct:
    """x Wᵀ + bias, differentiable in x, as quickly as the CPU can; elsewhere by PyTorch."""
    if serves(weight_OI) and serves(weight_OI.T):
        return DifferentiableLinear(weight_OI, bias_O)
    return PlainProduct(weight_OI, bias_O)


def exact_product(weight_OI: Tensor, bias_O: Tensor | None) -> Product:
    """x Wᵀ + bias in float32 on a CPU for inference: a row has the same bits wherever it stands, on any count of threads.

    By our own kernel, then, wherever the CPU has AVX-512, be it the quickest or not. Elsewhere by PyTorch, where the count of
    rows may decide a row's last bits: it would not if rows were filled up to a multiple of 16, but then a step of one row
    takes 3 to 7 times as long, and one of eight 1.7 times.
    """
    return PackedLinear(weight_OI, bias_O) if takes(weight_OI) else PlainProduct(weight_OI, bias_O)


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
