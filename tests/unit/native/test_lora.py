"""T tokens, I in-features, O out-features, P parts, S slots, N segments."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.flat_adapters import fill, group_bank, tables
from torch import Tensor

from trellis.lora import GroupBank
from trellis.native import lora
from trellis.native.lora import LoraOperands, SegmentTable, add_lora

Kernels = Callable[..., None]
Threads = Callable[[int], None]
DTYPES = (torch.float32, torch.bfloat16)


@dataclass
class Case:
    x_TI: Tensor
    y_TO: Tensor
    bank: GroupBank
    table_N3: Tensor

    def run(self) -> Tensor:
        y_TO = self.y_TO.clone()
        add_lora(y_TO, self.x_TI, self.bank.operands, SegmentTable(self.table_N3))
        return y_TO

    def expected(self) -> Tensor:
        y_TO = self.y_TO.double()
        for token, tokens, slot in self.table_N3.tolist():
            column = 0
            for part, width in enumerate(self.bank.group.out_features):
                pair = self.bank.pair(slot, part) if slot >= 0 else None
                if pair is not None:
                    x, a, b = (t.double() for t in (self.x_TI[token : token + tokens], *pair))
                    scale = float(self.bank.scale_SP[slot, part])
                    y_TO[token : token + tokens, column : column + width] += scale * (x @ a.T) @ b
                column += width
        return y_TO


def make(
    dtype: torch.dtype,
    in_features: int,
    outs: tuple[int, ...],
    runs: Sequence[tuple[int, int | tuple[int, ...]]],
    seed: int = 0,
) -> Case:
    """`runs` are (tokens, rank) of one adapter each, or of the ranks of its parts; rank 0 is the base alone."""
    random = torch.Generator().manual_seed(seed)
    table, token = [], 0
    for slot, (tokens, rank) in enumerate(runs):
        table.append([token, tokens, slot if rank else -1])
        token += tokens

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    ranks = [[rank] * len(outs) if isinstance(rank, int) else rank[: len(outs)] for _, rank in runs]
    return Case(
        x_TI=draw(token, in_features).to(dtype),
        y_TO=draw(token, sum(outs)).to(dtype),
        bank=group_bank(in_features, outs, ranks, dtype, seed, gap=3),
        table_N3=torch.tensor(table, dtype=torch.int32).reshape(-1, 3),
    )


def assert_close(got: Tensor, expected: Tensor) -> None:
    tolerance = 2e-5 if got.dtype == torch.float32 else 3e-2
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


SIZES = st.sampled_from([1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 64, 100, 576])
RANKS = st.one_of(
    st.sampled_from([0, 1, 3, 8, 16, 24, 40, 64]), st.tuples(*[st.sampled_from([0, 1, 4, 8, 13, 32])] * 3)
)
CASES = st.builds(
    make,
    st.sampled_from(DTYPES),
    SIZES,
    st.lists(SIZES, min_size=1, max_size=3).map(tuple),
    st.lists(
        st.tuples(st.sampled_from([0, 1, 2, 3, 4, 5, 15, 16, 17, 33, 70]), RANKS),
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
    case.x_TI[3:5], case.x_TI[45:65] = bad, bad
    fill(case.bank, 1, bad)
    fill(case.bank, 3, bad, part=0)
    got = case.run()
    for token, tokens, slot in case.table_N3.tolist():
        rows = slice(token, token + tokens)
        if slot in {1, 3}:
            assert not got[rows].isfinite().any()
        else:
            assert torch.equal(got[rows], clean[rows])


def test_a_row_has_the_same_bits_whatever_follows_it_in_the_batch(kernels: Kernels) -> None:
    kernels(lora)
    case = make(torch.bfloat16, 96, (80,), [(3, 16), (50, 8)])
    whole = case.run()
    case.table_N3 = case.table_N3[:1]
    assert torch.equal(case.run()[:3], whole[:3])
    assert torch.equal(case.run()[3:], case.y_TO[3:])


def test_a_part_of_scale_zero_is_left_alone_whatever_its_rows_hold(kernels: Kernels) -> None:
    kernels(lora)
    case = make(torch.float32, 64, (32, 48), [(2, 8)])
    case.bank.scale_SP[0, 1] = 0
    fill(case.bank, 0, math.nan, part=1)
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
    add_lora(wide_y[:, 5:55], wide_x[:, 3:73], case.bank.operands, SegmentTable(case.table_N3))
    assert torch.equal(wide_y[:, 5:55], expected)
    assert (wide_y[:, :5] == 7).all()
    assert (wide_y[:, 55:] == 7).all()


def test_nothing_to_do(kernels: Kernels) -> None:
    kernels(lora)
    case = make(torch.float32, 8, (8,), [(0, 8)])
    assert case.run().shape == (0, 8)
    case = make(torch.float32, 8, (8,), [(4, 8)])
    case.table_N3 = case.table_N3[:0]
    assert torch.equal(case.run(), case.y_TO)


def test_what_does_not_fit_is_refused() -> None:
    case = make(torch.float32, 8, (8, 4), [(4, 8)])
    values_V, (places, ranks, scales) = case.bank.values_V, tables(case.bank)
    with pytest.raises(ValueError, match="one group"):
        LoraOperands(values_V, places, ranks, scales, 8, (8, 5, 1))
    with pytest.raises(ValueError, match="int64"):
        LoraOperands(values_V, places.int(), ranks, scales, 8, (8, 4))
    with pytest.raises(ValueError, match="bfloat16"):
        LoraOperands(values_V.half(), places, ranks, scales, 8, (8, 4))
    with pytest.raises(ValueError, match="side by side"):
        LoraOperands(values_V[::2], places, ranks, scales, 8, (8, 4))
    with pytest.raises(ValueError, match="three numbers"):
        SegmentTable(case.table_N3.long())
    with pytest.raises(ValueError, match="follow one another"):
        SegmentTable(torch.tensor([[0, 4, 0], [3, 2, 0]], dtype=torch.int32))
    operands, segments = case.bank.operands, SegmentTable(case.table_N3)
    with pytest.raises(ValueError, match="dtype"):
        add_lora(case.y_TO.bfloat16(), case.x_TI, operands, segments)
    with pytest.raises(ValueError, match="sizes"):
        add_lora(case.y_TO[:, :8], case.x_TI, operands, segments)
    with pytest.raises(ValueError, match="one piece"):
        add_lora(case.y_TO, case.x_TI.T.contiguous().T, operands, segments)
    with pytest.raises(ValueError, match="not there"):
        add_lora(case.y_TO[:2], case.x_TI[:2], operands, segments)
    with pytest.raises(ValueError, match="not there"):
        add_lora(case.y_TO, case.x_TI, operands, SegmentTable(torch.tensor([[0, 4, 1]], dtype=torch.int32)))
