"""T tokens, I in-features, O out-features, R rank rows, P parts, S slots, N segments."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import Tensor

from trellis.native import lora
from trellis.native.lora import LoraOperands, SegmentTable, add_lora

Kernels = Callable[..., None]
Threads = Callable[[int], None]
DTYPES = (torch.float32, torch.bfloat16)


@dataclass
class Case:
    x_TI: Tensor
    y_TO: Tensor
    a_RPI: Tensor
    b_RO: Tensor
    scale_SP: Tensor
    outs: tuple[int, ...]
    table_N5: Tensor

    def run(self) -> Tensor:
        y_TO = self.y_TO.clone()
        add_lora(
            y_TO, self.x_TI, LoraOperands(self.a_RPI, self.b_RO, self.scale_SP, self.outs), SegmentTable(self.table_N5)
        )
        return y_TO

    def expected(self) -> Tensor:
        y_TO = self.y_TO.double()
        for token, tokens, row, rows, slot in self.table_N5.tolist():
            if slot < 0:
                continue
            x, a, b = (
                t.double()
                for t in (self.x_TI[token : token + tokens], self.a_RPI[row : row + rows], self.b_RO[row : row + rows])
            )
            added = [
                scale * (x @ a[:, part].T) @ columns
                for part, (scale, columns) in enumerate(
                    zip(self.scale_SP[slot].tolist(), b.split(self.outs, 1), strict=True)
                )
            ]
            y_TO[token : token + tokens] += torch.cat(added, 1)
        return y_TO


def make(
    dtype: torch.dtype, in_features: int, outs: tuple[int, ...], runs: list[tuple[int, int]], seed: int = 0
) -> Case:
    """`runs` are (tokens, rank) of one adapter each; rank 0 is the base alone."""
    random = torch.Generator().manual_seed(seed)
    table, token, row = [], 0, 0
    for slot, (tokens, rank) in enumerate(runs):
        table.append([token, tokens, row, rank, slot if rank else -1])
        token, row = token + tokens, row + rank

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    return Case(
        x_TI=draw(token, in_features).to(dtype),
        y_TO=draw(token, sum(outs)).to(dtype),
        a_RPI=(draw(row, len(outs), in_features) / math.sqrt(in_features)).to(dtype),
        b_RO=draw(row, sum(outs)).to(dtype) / 4,
        scale_SP=draw(len(runs), len(outs)),
        outs=outs,
        table_N5=torch.tensor(table, dtype=torch.int32).reshape(-1, 5),
    )


def assert_close(got: Tensor, expected: Tensor) -> None:
    tolerance = 2e-5 if got.dtype == torch.float32 else 3e-2
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


SIZES = st.sampled_from([1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 64, 100, 576])
CASES = st.builds(
    make,
    st.sampled_from(DTYPES),
    SIZES,
    st.lists(SIZES, min_size=1, max_size=3).map(tuple),
    st.lists(
        st.tuples(st.sampled_from([0, 1, 2, 3, 4, 5, 15, 16, 17, 33, 70]), st.sampled_from([0, 8, 16, 24, 40, 64])),
        min_size=1,
        max_size=5,
    ),
    st.integers(0, 1000),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CASES)
def test_is_what_plain_products_give_with_any_count_of_threads(kernels: Kernels, threads: Threads, case: Case) -> None:
    kernels(lora)
    threads(1)
    got = case.run()
    assert_close(got, case.expected())
    for count in (2, 3):
        threads(count)
        assert torch.equal(case.run(), got)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("runs", [[(1, 8)], [(2, 64)], [(600, 16)], [(1, 8)] * 40])
def test_at_a_models_sizes(kernels: Kernels, threads: Threads, dtype: torch.dtype, runs: list[tuple[int, int]]) -> None:
    kernels(lora)
    threads(2)
    case = make(dtype, 576, (1536, 1540), runs)
    assert_close(case.run(), case.expected())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_no_bit_of_a_row_changes_beside_a_broken_neighbour(kernels: Kernels, dtype: torch.dtype, bad: float) -> None:
    kernels(lora)
    runs = [(3, 8), (2, 8), (40, 24), (20, 8), (33, 16)]
    case = make(dtype, 100, (40, 70), runs)
    clean = case.run()
    case.x_TI[3:5], case.a_RPI[8:16], case.b_RO[8:16] = bad, bad, bad
    case.x_TI[45:65], case.a_RPI[40:48] = bad, bad
    got = case.run()
    for token, tokens, _, _, slot in case.table_N5.tolist():
        rows = slice(token, token + tokens)
        if slot in {1, 3}:
            assert not got[rows].isfinite().any()
        else:
            assert torch.equal(got[rows], clean[rows])


def test_a_row_has_the_same_bits_whatever_follows_it_in_the_batch(kernels: Kernels) -> None:
    kernels(lora)
    case = make(torch.bfloat16, 96, (80,), [(3, 16), (50, 8)])
    whole = case.run()
    case.table_N5 = case.table_N5[:1]
    assert torch.equal(case.run()[:3], whole[:3])
    assert torch.equal(case.run()[3:], case.y_TO[3:])


def test_a_part_of_scale_zero_is_left_alone_whatever_its_rows_hold(kernels: Kernels) -> None:
    kernels(lora)
    case = make(torch.float32, 64, (32, 48), [(2, 8)])
    case.scale_SP[0, 1] = 0
    case.a_RPI[:, 1] = math.nan
    assert torch.equal(case.run()[:, 32:], case.y_TO[:, 32:])
    assert case.run().isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [2, 40])
def test_rows_may_lie_apart(kernels: Kernels, dtype: torch.dtype, tokens: int) -> None:
    kernels(lora)
    case = make(dtype, 70, (50,), [(tokens, 8)])
    wide_x, wide_y = torch.full((tokens, 90), math.nan, dtype=dtype), torch.full((tokens, 61), 7.0, dtype=dtype)
    wide_x[:, 3:73], wide_y[:, 5:55] = case.x_TI, case.y_TO
    expected = case.run()
    add_lora(
        wide_y[:, 5:55],
        wide_x[:, 3:73],
        LoraOperands(case.a_RPI, case.b_RO, case.scale_SP, case.outs),
        SegmentTable(case.table_N5),
    )
    assert torch.equal(wide_y[:, 5:55], expected)
    assert (wide_y[:, :5] == 7).all()
    assert (wide_y[:, 55:] == 7).all()


def test_nothing_to_do(kernels: Kernels) -> None:
    kernels(lora)
    case = make(torch.float32, 8, (8,), [(0, 8)])
    assert case.run().shape == (0, 8)
    case = make(torch.float32, 8, (8,), [(4, 8)])
    case.table_N5 = case.table_N5[:0]
    assert torch.equal(case.run(), case.y_TO)


def test_what_does_not_fit_is_refused() -> None:
    case = make(torch.float32, 8, (8, 4), [(4, 8)])
    with pytest.raises(ValueError, match="one group"):
        LoraOperands(case.a_RPI, case.b_RO, case.scale_SP, (8, 5))
    with pytest.raises(ValueError, match="bfloat16"):
        LoraOperands(case.a_RPI.half(), case.b_RO.half(), case.scale_SP, case.outs)
    with pytest.raises(ValueError, match="contiguous"):
        LoraOperands(case.a_RPI.flip(0)[::2], case.b_RO[::2], case.scale_SP, case.outs)
    with pytest.raises(ValueError, match="five numbers"):
        SegmentTable(case.table_N5.long())
    with pytest.raises(ValueError, match="follow one another"):
        SegmentTable(torch.tensor([[0, 4, 0, 8, 0], [3, 2, 0, 8, 0]], dtype=torch.int32))
    operands, segments = LoraOperands(case.a_RPI, case.b_RO, case.scale_SP, case.outs), SegmentTable(case.table_N5)
    with pytest.raises(ValueError, match="dtype"):
        add_lora(case.y_TO.bfloat16(), case.x_TI, operands, segments)
    with pytest.raises(ValueError, match="sizes"):
        add_lora(case.y_TO[:, :8], case.x_TI, operands, segments)
    with pytest.raises(ValueError, match="one piece"):
        add_lora(case.y_TO, case.x_TI.T.contiguous().T, operands, segments)
    with pytest.raises(ValueError, match="not there"):
        add_lora(case.y_TO[:2], case.x_TI[:2], operands, segments)
    with pytest.raises(ValueError, match="not there"):
        add_lora(case.y_TO, case.x_TI, operands, SegmentTable(torch.tensor([[0, 4, 1, 8, 0]], dtype=torch.int32)))
