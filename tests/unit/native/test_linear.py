"""T rows, I in-features, O out-features."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trellis.native.linear import DifferentiableLinear, PackedLinear, serves, takes

Threads = Callable[[int], None]
SIZES = [(576, 960), (64, 33), (2, 1), (1536, 16), (130, 4099)]
ROWS = (1, 2, 7, 8, 9, 24, 33, 100)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 8e-3}


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Where the kernel has the instructions, be it the quickest or not."""
    found: torch.dtype = request.param
    if not takes(draw(2, 2, dtype=found)):
        pytest.skip(f"This CPU has no AVX-512 for {found}.")
    return found


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), SIZES)
def test_is_the_product(dtype: torch.dtype, threads: Threads, inputs: int, outputs: int, bias: bool) -> None:
    weight_OI, bias_O = draw(outputs, inputs, seed=1, dtype=dtype), draw(outputs, seed=2, dtype=dtype) if bias else None
    product = PackedLinear(weight_OI, bias_O)
    for rows in ROWS:
        x_TI = draw(rows, inputs, seed=rows, dtype=dtype)
        expected = x_TI.double() @ weight_OI.double().T + (0 if bias_O is None else bias_O.double())
        threads(1)
        y_TO = product(x_TI)
        threads(2)
        assert torch.equal(product(x_TI), y_TO)
        assert y_TO.dtype == dtype
        torch.testing.assert_close(y_TO.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * inputs**0.5)


def test_a_row_depends_on_itself_alone(dtype: torch.dtype, threads: Threads) -> None:
    product = PackedLinear(draw(100, 64, dtype=dtype), None)
    x_TI = draw(40, 64, seed=3, dtype=dtype)
    threads(2)
    whole = product(x_TI)
    for begin, end in ((0, 1), (5, 13), (8, 40)):
        assert torch.equal(product(x_TI[begin:end]), whole[begin:end])
    x_TI[1] = torch.nan
    assert torch.equal(product(x_TI)[2:], whole[2:])
    assert product(x_TI)[1].isnan().all()


def test_leading_dimensions_and_strides_are_kept(dtype: torch.dtype) -> None:
    weight_OI = draw(48, 32, dtype=dtype)
    product = PackedLinear(weight_OI, None)
    x = draw(2, 3, 64, seed=4, dtype=dtype)
    assert torch.equal(product(x[..., :32]), product(x[..., :32].contiguous()))
    assert product(x[..., 32:]).shape == (2, 3, 48)
    assert product(draw(0, 32, dtype=dtype)).shape == (0, 48)
    assert PackedLinear(draw(1000, 32, dtype=dtype), None)(draw(0, 32, dtype=dtype)).shape == (0, 1000)
    assert torch.equal(product(x[0, :, ::2]), product(x[0, :, ::2].contiguous()))
    assert torch.equal(PackedLinear(weight_OI.T.contiguous().T, None)(x[0, :, :32]), product(x[0, :, :32]))


def test_gradients_are_those_of_the_plain_product(dtype: torch.dtype) -> None:
    weight_OI, bias_O = draw(130, 64, seed=1, dtype=dtype), draw(130, seed=2, dtype=dtype)
    x, grad_y = draw(2, 24, 64, seed=3, dtype=dtype).requires_grad_(), draw(2, 24, 130, seed=4, dtype=dtype)
    y = DifferentiableLinear(weight_OI, bias_O)(x)
    (found,) = torch.autograd.grad(y, x, grad_y)
    expected = grad_y.double() @ weight_OI.double()
    torch.testing.assert_close(found.double(), expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * 130**0.5)
    assert not DifferentiableLinear(weight_OI, None)(x.detach()).requires_grad


def test_other_rows_are_refused(dtype: torch.dtype) -> None:
    product = PackedLinear(draw(48, 32, dtype=dtype), None)
    with pytest.raises(ValueError, match="32 numbers"):
        product(draw(3, 31, dtype=dtype))
    with pytest.raises(ValueError, match=str(dtype)):
        product(draw(3, 32).double())


@pytest.mark.parametrize("asked", [serves, takes])
def test_no_other_dtype_and_no_half_pairs_are_taken(asked: Callable[[Tensor], bool]) -> None:
    assert not asked(draw(4, 2).double())
    assert not asked(draw(4, 3, dtype=torch.bfloat16))
    assert not asked(draw(4, 0))


def test_what_serves_is_taken(dtype: torch.dtype) -> None:
    """And may be so where another library is quicker."""
    assert takes(draw(4, 2, dtype=dtype)) >= serves(draw(4, 2, dtype=dtype))
