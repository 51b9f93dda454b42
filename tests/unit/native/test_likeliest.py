"""N rows, V numbers in each."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from trellis.native import likeliest as module
from trellis.native.build import available
from trellis.native.likeliest import likeliest, takes

Kernels = Callable[..., None]
Threads = Callable[[int], None]
DTYPES = (torch.float32, torch.bfloat16)
NUMBERS = st.sampled_from((-math.inf, -2.5, -0.0, 0.0, 1e-40, 1.0, 7.0, math.inf, math.nan))

pytestmark = pytest.mark.skipif(not available(), reason="no compiler")


def assert_as_torch_says(rows_NV: Tensor) -> None:
    values_N, places_N = likeliest(rows_NV)
    expected_N, at_N = rows_NV.float().max(-1)
    assert torch.equal(places_N, at_N)
    torch.testing.assert_close(values_N, expected_N, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 15), (2, 16), (5, 63), (5, 64), (4, 129), (33, 4096), (7, 49_155)])
def test_rows_of_any_size(kernels: Kernels, threads: Threads, dtype: torch.dtype, shape: tuple[int, int]) -> None:
    kernels(module)
    rows_NV = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) - 9).to(dtype)
    for count in (1, 2):
        threads(count)
        assert_as_torch_says(rows_NV)


@given(st.data(), st.sampled_from(DTYPES), st.integers(1, 200))
def test_infinities_nans_and_equals(data: st.DataObject, dtype: torch.dtype, size: int) -> None:
    row = [data.draw(NUMBERS)] * size
    for place in data.draw(st.lists(st.integers(0, size - 1), max_size=4)):
        row[place] = data.draw(NUMBERS)
    assert_as_torch_says(torch.tensor([row, row[::-1]], dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_neighbours_numbers_are_not_read(dtype: torch.dtype) -> None:
    wide_NV = torch.full((6, 100), math.nan, dtype=dtype)
    wide_NV[:, :77] = -torch.arange(6 * 77).reshape(6, 77).to(dtype)
    assert_as_torch_says(wide_NV[:, :77])


def test_no_rows() -> None:
    values_N, places_N = likeliest(torch.zeros(0, 8))
    assert values_N.shape == places_N.shape == (0,)


def test_what_is_not_taken() -> None:
    assert takes(torch.zeros(2, 3))
    assert not takes(torch.zeros(2, 3, dtype=torch.float16))
    assert not takes(torch.zeros(3, 2).T)
    assert not takes(torch.zeros(2, 0))
