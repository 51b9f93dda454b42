"""T tokens, Q query heads, H key-value heads, D head size, N blocks, t tokens a block, B sequences, M blocks of a table."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import Tensor

from trellis.native import attention
from trellis.native.attention import CacheOperands, StepTable, attend, read, supports, write

Kernels = Callable[..., None]
Threads = Callable[[int], None]
DTYPES = (torch.float32, torch.bfloat16)


@dataclass
class Case:
    """Sequences are (tokens before the step, new tokens); their blocks lie in any order, unused ones hold NaN."""

    sequences: list[tuple[int, int]]
    shared: int = 3
    heads: int = 2
    key_size: int = 64
    value_size: int = 64
    block_tokens: int = 16
    dtype: torch.dtype = torch.float32
    window: int = 0
    softcap: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.seed)
        tokens = sum(new for _, new in self.sequences)
        self.q_TQD = self.draw(tokens, self.shared * self.heads, self.key_size)
        self.k_THD = self.draw(tokens, self.heads, self.key_size)
        self.v_THD = self.draw(tokens, self.heads, self.value_size)
        counts = [-(-(before + new) // self.block_tokens) for before, new in self.sequences]
        order = torch.randperm(sum(counts) + 1, generator=self.random).int()
        self.blocks_BM = torch.zeros(len(counts), max(counts), dtype=torch.int32)
        for row, blocks in zip(self.blocks_BM, order.split([*counts, 1]), strict=False):
            row[: len(blocks)] = blocks
        size = (sum(counts) + 1, self.heads, self.block_tokens)
        self.keys_NHtD = torch.full((*size, self.key_size), math.nan, dtype=self.dtype)
        self.values_NHtD = torch.full((*size, self.value_size), math.nan, dtype=self.dtype)
        self.put([(0, before) for before, _ in self.sequences], self.heads)
        write(self.k_THD, self.v_THD, self.cache, self.table(self.sequences))

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random).to(self.dtype)

    def put(self, spans: list[tuple[int, int]], heads: int) -> None:
        tokens = sum(new for _, new in spans)
        keys, values = self.draw(tokens, heads, self.key_size), self.draw(tokens, heads, self.value_size)
        write(keys, values, self.cache, self.table(spans))

    @property
    def cache(self) -> CacheOperands:
        return CacheOperands(self.keys_NHtD, self.values_NHtD)

    def table(self, spans: list[tuple[int, int]]) -> StepTable:
        rows = [
            int(self.blocks_BM[index, token // self.block_tokens]) * self.block_tokens + token % self.block_tokens
            for index, (before, new) in enumerate(spans)
            for token in range(before, before + new)
        ]
        starts_B1 = torch.tensor([0, *(new for _, new in spans)]).cumsum(0).int()
        positions_B = torch.tensor([before for before, _ in spans], dtype=torch.int32)
        return StepTable(
            starts_B1,
            positions_B,
            self.blocks_BM[: len(spans)],
            torch.tensor(rows, dtype=torch.int64),
            self.block_tokens,
        )

    def run(self) -> Tensor:
        return attend(
            self.q_TQD,
            self.cache,
            self.table(self.sequences),
            scaling=self.key_size**-0.5,
            window=self.window,
            softcap=self.softcap,
        )

    def expected(self) -> Tensor:
        answers, start = [], 0
        for index, (before, new) in enumerate(self.sequences):
            stop = before + new
            keys, values = (
                part.double().repeat_interleave(self.shared, 0)
                for part in read(self.keys_NHtD, self.values_NHtD, self.blocks_BM[index], 0, stop)
            )
            scores = (
                self.q_TQD[start : start + new].double().transpose(0, 1) @ keys.transpose(1, 2) * self.key_size**-0.5
            )
            if self.softcap:
                scores = self.softcap * torch.tanh(scores / self.softcap)
            may_read = torch.ones(new, stop, dtype=torch.bool).tril(before)
            if self.window:
                may_read = may_read.triu(before - self.window + 1)
            weights = scores.masked_fill(~may_read, -math.inf).softmax(-1)
            answers.append((weights @ values).transpose(0, 1))
            start += new
        return torch.cat(answers)


def assert_close(got: Tensor, expected: Tensor) -> None:
    tolerance = 2e-5 if got.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance)


CASES = st.builds(
    Case,
    st.lists(
        st.tuples(
            st.sampled_from([0, 0, 1, 14, 15, 16, 17, 100, 255, 256, 300, 700]),
            st.sampled_from([1, 1, 1, 2, 3, 17, 33, 70]),
        ),
        min_size=1,
        max_size=4,
    ),
    shared=st.sampled_from([1, 2, 3, 4, 7, 8, 11]),
    heads=st.sampled_from([1, 2, 3]),
    key_size=st.sampled_from([8, 16, 20, 64, 80, 128]),
    value_size=st.sampled_from([5, 8, 16, 64, 96]),
    block_tokens=st.sampled_from([16, 32, 64]),
    dtype=st.sampled_from(DTYPES),
    window=st.sampled_from([0, 0, 0, 1, 7, 33, 200, 300]),
    softcap=st.sampled_from([0.0, 0.0, 20.0]),
    seed=st.integers(0, 1000),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_is_what_softmax_gives_with_any_count_of_threads(
    kernels: Kernels, threads: Threads, data: st.DataObject
) -> None:
    kernels(attention)
    case = data.draw(CASES)
    threads(1)
    got = case.run()
    assert_close(got, case.expected())
    threads(2)
    assert torch.equal(case.run(), got)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_was_written_is_read_back(kernels: Kernels, threads: Threads, dtype: torch.dtype) -> None:
    kernels(attention)
    threads(2)
    case = Case([(3, 200), (40, 1)], dtype=dtype, key_size=20, value_size=7)
    keys, values = read(case.keys_NHtD, case.values_NHtD, case.blocks_BM[0], 3, 203)
    assert torch.equal(keys, case.k_THD[:200].transpose(0, 1))
    assert torch.equal(values, case.v_THD[:200].transpose(0, 1))
    keys, values = read(case.keys_NHtD, case.values_NHtD, case.blocks_BM[1], 40, 41)
    assert torch.equal(keys[:, 0], case.k_THD[200])
    assert torch.equal(values[:, 0], case.v_THD[200])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_no_bit_of_a_sequence_changes_beside_a_broken_neighbour(
    kernels: Kernels, dtype: torch.dtype, bad: float
) -> None:
    kernels(attention)
    sequences = [(100, 1), (31, 1), (7, 20), (300, 1)]
    clean, broken = Case(sequences, dtype=dtype), Case(sequences, dtype=dtype)
    broken.q_TQD[1:2] = broken.k_THD[2:22] = bad
    write(broken.k_THD, broken.v_THD, broken.cache, broken.table(sequences))
    got = broken.run()
    assert not got[1:22].isfinite().any()
    assert torch.equal(got[[0, 22]], clean.run()[[0, 22]])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_prompt_cut_into_chunks_is_answered_with_the_same_bits(kernels: Kernels, dtype: torch.dtype) -> None:
    kernels(attention)
    whole = Case([(0, 290)], dtype=dtype, window=270)
    in_one = whole.run()
    whole.q_TQD = whole.q_TQD[261:]
    whole.sequences = [(261, 29)]
    assert torch.equal(whole.run(), in_one[261:])


def test_heads_of_one_fused_product_need_no_copy(kernels: Kernels) -> None:
    kernels(attention)
    case = Case([(20, 2), (0, 5)], dtype=torch.bfloat16)
    expected = case.run()
    fused = torch.cat([part.flatten(1) for part in (case.q_TQD, case.k_THD, case.v_THD)], 1)
    q, k, v = fused.split([6 * 64, 2 * 64, 2 * 64], 1)
    case.q_TQD, case.k_THD, case.v_THD = (part.unflatten(1, (-1, 64)) for part in (q, k, v))
    write(case.k_THD, case.v_THD, case.cache, case.table(case.sequences))
    assert torch.equal(case.run(), expected)


def test_which_caches_are_served() -> None:
    assert supports(torch.bfloat16, 16, 64)
    assert supports(torch.float32, 32, 7)
    assert not supports(torch.bfloat16, 16, 7)
    assert not supports(torch.bfloat16, 24, 64)
    assert not supports(torch.float16, 16, 64)


def test_what_does_not_fit_is_refused() -> None:
    case = Case([(20, 2), (0, 5)])
    with pytest.raises(ValueError, match="one cache"):
        CacheOperands(case.keys_NHtD, case.values_NHtD[:1])
    with pytest.raises(ValueError, match="multiple of 16"):
        CacheOperands(case.keys_NHtD[:, :, :8], case.values_NHtD[:, :, :8])
    with pytest.raises(ValueError, match="contiguous"):
        CacheOperands(case.keys_NHtD[::2], case.values_NHtD[::2])
    starts, positions = torch.tensor([0, 2], dtype=torch.int32), torch.tensor([31], dtype=torch.int32)
    blocks, rows = torch.tensor([[0, 1]], dtype=torch.int32), torch.tensor([31, 0])
    with pytest.raises(ValueError, match="does not cover"):
        StepTable(starts, positions, blocks, rows, 16)
    with pytest.raises(ValueError, match="int32"):
        StepTable(starts.long(), positions, blocks, rows, 16)
    with pytest.raises(ValueError, match="same sequences"):
        StepTable(starts[:1], positions, blocks, rows, 16)
    with pytest.raises(ValueError, match="from 0"):
        StepTable(starts, positions - 40, blocks, rows, 16)
    with pytest.raises(ValueError, match="from 0"):
        StepTable(starts, positions - 1, blocks - 1, rows, 16)
    table = case.table(case.sequences)
    with pytest.raises(ValueError, match="Of this cache"):
        attend(case.q_TQD[:6], case.cache, table, scaling=1.0)
    with pytest.raises(ValueError, match="as many"):
        attend(case.q_TQD[:, :5], case.cache, table, scaling=1.0)
    with pytest.raises(ValueError, match="one piece"):
        write(case.k_THD.transpose(0, 2).contiguous().transpose(0, 2), case.v_THD, case.cache, table)
    with pytest.raises(ValueError, match="not of this cache"):
        attend(case.q_TQD, CacheOperands(case.keys_NHtD[:2], case.values_NHtD[:2]), table, scaling=1.0)
