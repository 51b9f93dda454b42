"""T tokens, I in-features, O out-features of all parts, S slots."""

from collections.abc import Callable, Sequence

import pytest
import torch
from tests.flat_adapters import group_bank
from torch import Tensor

from trellis.native.build import available, library
from trellis.native.linear import DifferentiableLinear
from trellis.native.lora import SegmentTable, adapted, adapted_gradients, add_gradients, add_lora

Threads = Callable[[int], None]

pytestmark = pytest.mark.skipif(
    not available() or not library().trellis_has_linear() & 1, reason="no products of our own for this CPU"
)
RUNS: dict[str, tuple[int, Sequence[tuple[int, int, int]]]] = {
    "one row": (1, [(0, 1, 0)]),
    "some rows of nobody": (77, [(3, 40, 0), (50, 20, 1)]),
    "many": (1000, [(start, 90, number % 3) for number, start in enumerate(range(0, 900, 95))]),
    "one long": (700, [(0, 700, 1)]),
    "the base alone": (50, [(0, 50, -1)]),
    "none": (64, []),
    "no rows": (0, []),
}


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


class Case:
    """A group of linears with three adapters, and a batch."""

    def __init__(self, runs: str, features: int, parts: Sequence[int]) -> None:
        tokens, table = RUNS[runs]
        columns = sum(parts)
        self.linear = DifferentiableLinear(draw(columns, features), draw(columns))
        self.bank = group_bank(features, parts, [[8] * len(parts), [16, 3, 0][: len(parts)], [8] * len(parts)])
        self.bank.scale_SP[2, 0] = 0.0
        self.operands = self.bank.operands
        self.segments = SegmentTable(torch.tensor(table, dtype=torch.int32).reshape(-1, 3))
        self.x_TI, self.grad_TO = draw(tokens, features), draw(tokens, columns)

    def apart(self) -> tuple[Tensor, Tensor, Tensor]:
        """The result and the gradients of x and the adapters by the product and the adapters one after the other."""
        y_TO = self.linear.forth(self.x_TI)
        add_lora(y_TO, self.x_TI, self.operands, self.segments)
        grad_x, grad_V = self.linear.back(self.grad_TO), torch.ones_like(self.bank.values_V)
        add_gradients(grad_x, grad_V, self.grad_TO, self.x_TI, self.operands, self.segments)
        return y_TO, grad_x, grad_V

    def together(self) -> tuple[Tensor, Tensor, Tensor]:
        y_TO = adapted(self.x_TI, self.linear.forth, self.operands, self.segments)
        grad_V = torch.ones_like(self.bank.values_V)
        grad_x = adapted_gradients(grad_V, self.grad_TO, self.x_TI, self.linear.back, self.operands, self.segments)
        return y_TO, grad_x, grad_V


@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize(("features", "parts"), [(64, (48,)), (40, (33, 17, 5)), (256, (704, 704))])
def test_is_the_product_and_the_adapters_to_the_bit(
    threads: Threads, runs: str, features: int, parts: tuple[int, ...]
) -> None:
    case = Case(runs, features, parts)
    threads(1)
    expected = case.apart()
    for count in (1, 2, 3):
        threads(count)
        for got, one in zip(case.together(), expected, strict=True):
            assert torch.equal(got, one)


def test_rows_of_a_wider_tensor() -> None:
    case = Case("some rows of nobody", 40, (33, 17, 5))
    expected = case.together()
    wide_x, wide_grad = draw(77, 50), draw(77, 60)
    wide_x[:, 5:45], wide_grad[:, 2:57] = case.x_TI, case.grad_TO
    case.x_TI, case.grad_TO = wide_x[:, 5:45], wide_grad[:, 2:57]
    for got, one in zip(case.together(), expected, strict=True):
        assert torch.equal(got, one)


def test_what_does_not_fit_is_refused() -> None:
    case, other = Case("many", 64, (48,)), Case("many", 40, (33, 17, 5))
    with pytest.raises(ValueError, match="one group's sizes"):
        adapted(case.x_TI, other.linear.forth, case.operands, case.segments)
    with pytest.raises(ValueError, match="one group's sizes"):
        adapted(case.x_TI.bfloat16(), case.linear.forth, case.operands, case.segments)
    with pytest.raises(ValueError, match="that are not there"):
        adapted(case.x_TI[:10], case.linear.forth, case.operands, case.segments)
    with pytest.raises(ValueError, match="one piece"):
        adapted(draw(64, 1000).T, case.linear.forth, case.operands, case.segments)
    grad_V = torch.zeros_like(case.bank.values_V)
    with pytest.raises(ValueError, match="one group's sizes"):
        adapted_gradients(grad_V, case.grad_TO, case.x_TI, other.linear.back, case.operands, case.segments)
    with pytest.raises(ValueError, match="lie as their values do"):
        adapted_gradients(grad_V[:8], case.grad_TO, case.x_TI, case.linear.back, case.operands, case.segments)
    assert not grad_V.any()
