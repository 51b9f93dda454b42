"""T tokens, I in-features, O out-features of all parts, R rank rows of the bank, S slots."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from trellis.native.build import available, library
from trellis.native.linear import DifferentiableLinear
from trellis.native.lora import LoraOperands, SegmentTable, adapted, adapted_gradients, add_gradients, add_lora

Threads = Callable[[int], None]

pytestmark = pytest.mark.skipif(
    not available() or not library().trellis_has_linear() & 1, reason="no products of our own for this CPU"
)
RUNS: dict[str, tuple[int, Sequence[tuple[int, int, int, int, int]]]] = {
    "one row": (1, [(0, 1, 0, 8, 0)]),
    "some rows of nobody": (77, [(3, 40, 0, 8, 0), (50, 20, 8, 16, 1)]),
    "many": (1000, [(start, 90, 8 * (number % 3), 8, number % 3) for number, start in enumerate(range(0, 900, 95))]),
    "one long": (700, [(0, 700, 8, 16, 1)]),
    "the base alone": (50, [(0, 50, 0, 8, -1)]),
    "none": (64, []),
    "no rows": (0, []),
}


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


class Case:
    """A group of linears with a bank of 24 rank rows, and a batch."""

    def __init__(self, runs: str, features: int, parts: Sequence[int]) -> None:
        tokens, table = RUNS[runs]
        columns = sum(parts)
        self.linear = DifferentiableLinear(draw(columns, features), draw(columns))
        self.a_RPI, self.b_RO = draw(24, len(parts), features), draw(24, columns)
        scale_SP = torch.full((3, len(parts)), 0.5)
        scale_SP[2, 0] = 0.0
        self.operands = LoraOperands(self.a_RPI, self.b_RO, scale_SP, parts)
        self.segments = SegmentTable(torch.tensor(table, dtype=torch.int32).reshape(-1, 5))
        self.x_TI, self.grad_TO = draw(tokens, features), draw(tokens, columns)

    def apart(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The result and the gradients of x, A and B by the product and the adapters one after the other."""
        y_TO = self.linear.forth(self.x_TI)
        add_lora(y_TO, self.x_TI, self.operands, self.segments)
        grad_x, grad_a, grad_b = self.linear.back(self.grad_TO), torch.ones_like(self.a_RPI), torch.ones_like(self.b_RO)
        add_gradients(grad_x, grad_a, grad_b, self.grad_TO, self.x_TI, self.operands, self.segments)
        return y_TO, grad_x, grad_a, grad_b

    def together(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        y_TO = adapted(self.x_TI, self.linear.forth, self.operands, self.segments)
        grad_a, grad_b = torch.ones_like(self.a_RPI), torch.ones_like(self.b_RO)
        grad_x = adapted_gradients(
            grad_a, grad_b, self.grad_TO, self.x_TI, self.linear.back, self.operands, self.segments
        )
        return y_TO, grad_x, grad_a, grad_b


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
    gradients = torch.zeros_like(case.a_RPI), torch.zeros_like(case.b_RO)
    with pytest.raises(ValueError, match="one group's sizes"):
        adapted_gradients(*gradients, case.grad_TO, case.x_TI, other.linear.back, case.operands, case.segments)
    with pytest.raises(ValueError, match="not of the bank's sizes"):
        adapted_gradients(
            gradients[0][:8], gradients[1], case.grad_TO, case.x_TI, case.linear.back, case.operands, case.segments
        )
    assert not any(gradient.any() for gradient in gradients)
