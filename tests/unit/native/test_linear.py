"""T rows, I in-features, O out-features."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trellis.native import linear
from trellis.native.linear import PackedLinear, serves

Threads = Callable[[int], None]
SIZES = [(576, 960), (64, 33), (2, 1), (1536, 16), (130, 4099)]
ROWS = (1, 2, 7, 8, 9, 24, 33, 100)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.fixture(autouse=True)
def where_it_serves() -> None:
    if not serves(draw(2, 2)):
        pytest.skip("The CPU has no bf16 dot products, or has AMX, which oneDNN uses.")


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_is_the_product(threads: Threads, inputs: int, outputs: int, bias: bool) -> None:
    weight_OI, bias_O = draw(outputs, inputs, seed=1), draw(outputs, seed=2) if bias else None
    product = PackedLinear(weight_OI, bias_O)
    for rows in ROWS:
        x_TI = draw(rows, inputs, seed=rows)
        expected = x_TI.double() @ weight_OI.double().T + (0 if bias_O is None else bias_O.double())
        threads(1)
        y_TO = product(x_TI)
        threads(2)
        assert torch.equal(product(x_TI), y_TO)
        torch.testing.assert_close(y_TO.double(), expected, rtol=8e-3, atol=8e-3 * inputs**0.5)


def test_a_row_depends_on_itself_alone(threads: Threads) -> None:
    product = PackedLinear(draw(100, 64), None)
    x_TI = draw(40, 64, seed=3)
    threads(2)
    whole = product(x_TI)
    for begin, end in ((0, 1), (5, 13), (8, 40)):
        assert torch.equal(product(x_TI[begin:end]), whole[begin:end])
    x_TI[1] = torch.nan
    assert torch.equal(product(x_TI)[2:], whole[2:])
    assert product(x_TI)[1].isnan().all()


def test_leading_dimensions_and_strides_are_kept() -> None:
    product = PackedLinear(draw(48, 32), None)
    x = draw(2, 3, 64, seed=4)
    assert torch.equal(product(x[..., :32]), product(x[..., :32].contiguous()))
    assert product(x[..., 32:]).shape == (2, 3, 48)
    assert product(draw(0, 32)).shape == (0, 48)
    assert PackedLinear(draw(1000, 32), None)(draw(0, 32)).shape == (0, 1000)
    assert torch.equal(product(x[0, :, ::2]), product(x[0, :, ::2].contiguous()))


def test_other_rows_are_refused() -> None:
    product = PackedLinear(draw(48, 32), None)
    with pytest.raises(ValueError, match="32 numbers"):
        product(draw(3, 31))
    with pytest.raises(ValueError, match="bfloat16"):
        product(draw(3, 32).float())


def test_serves_bfloat16_of_even_size_only() -> None:
    assert not serves(draw(4, 3))
    assert not serves(draw(4, 2).float())
    assert linear.serves(draw(3, 4))
