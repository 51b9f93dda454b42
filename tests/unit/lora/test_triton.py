import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tests import triton_cases
from tests.triton_cases import Case

from trellis.lora.ops import triton
from trellis.lora.ops.triton_tables import RANK_BLOCK, FixedTables, StepTables, WorkTables
from trellis.lora.segments import Segment, Segments

CPU = torch.device("cpu")
CASES = [
    Case((8,), 32, (24,), ((0, 1),)),
    Case((4, 16, 40), 600, (48, 16, 16), ((None, 2), (0, 1), (1, 3), (2, 17), (None, 1))),
    Case((8, 24), 70, (33, 150), ((1, 40), (0, 2), (1, 5), (None, 3), (0, 1))),
    Case((8, 8), 64, (64,), ((1, 100), (0, 33))),
    Case((8,), 32, (16,), ((None, 5),)),
    Case((8, 16), 96, (40, 24), ((1, 2), (0, 5)), torch.float16),
]
ON_A_GPU = [
    *CASES,
    # Triton's interpreter (3.9) multiplies the bits of bfloat16 as whole numbers.
    Case((8, 16), 96, (40, 24), ((0, 2), (None, 1), (1, 5)), torch.bfloat16),
    Case((16,) * 32, 4096, (4096, 1024, 1024), tuple((slot, 1) for slot in range(32)), torch.bfloat16),
    Case((16, 64), 4096, (14336, 14336), ((0, 500), (None, 3), (1, 700)), torch.bfloat16),
]
CHECKS = [triton_cases.forward, triton_cases.backward]
MIXED = CASES[1]
OTHERS = ((1, 1), (None, 1), (2, 1), (0, 4))


@pytest.fixture(scope="module")
def interpret() -> Iterator[Callable[..., Any]]:
    pytest.importorskip("triton")
    with triton_cases.interpreter() as run:
        yield run


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_kernels_compute_what_the_formula_says(
    interpret: Callable[..., Any], check: Callable[..., None], case: Case
) -> None:
    interpret(check, case, "cpu")


def test_tables_in_one_place_do_another_steps_work_when_filled_anew(interpret: Callable[..., Any]) -> None:
    interpret(triton_cases.replay, MIXED, OTHERS, "cpu")


def test_tables_need_not_be_filled_anew_when_adapters_move(interpret: Callable[..., Any]) -> None:
    interpret(triton_cases.moved, MIXED, "cpu")


def test_what_is_not_finite_stays_with_its_owner(interpret: Callable[..., Any]) -> None:
    interpret(triton_cases.isolated, MIXED, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("case", ON_A_GPU, ids=str)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_kernels_compute_it_on_a_gpu(check: Callable[..., None], case: Case) -> None:
    check(case, "cuda")


@pytest.mark.gpu
def test_tables_in_one_place_work_on_a_gpu() -> None:
    triton_cases.replay(MIXED, OTHERS, "cuda")
    triton_cases.moved(MIXED, "cuda")


@pytest.mark.gpu
def test_what_is_not_finite_stays_with_its_owner_on_a_gpu() -> None:
    triton_cases.isolated(MIXED, "cuda")


@pytest.mark.gpu
def test_adapters_may_lie_beyond_what_32_bits_count_on_a_gpu() -> None:
    triton_cases.far(CASES[-1], "cuda")


def test_a_cpu_is_not_for_these_kernels() -> None:
    assert not triton.supports(CPU, torch.float32)
    assert not triton.supports(torch.device("cuda"), torch.float64)


def test_pieces_cover_every_token_and_rank_row_once() -> None:
    segments, ranks = (Segment(3, 20, 2), Segment(23, 1, 0), Segment(30, 16, 2)), (40, 8, 40)
    work = WorkTables.of(segments, ranks, token_block=16)
    covered, expected = (np.zeros((46, 3, 64), dtype=int) for _ in range(2))
    for token, tokens, row, slot in work.items:
        covered[token : token + tokens, slot, row : row + RANK_BLOCK] += 1
    for segment, rows in zip(segments, (48, 16, 48), strict=True):
        expected[segment.span, segment.slot, :rows] = 1
    assert (covered == expected).all()
    assert work.rank == 48


def test_an_owners_pieces_are_all_of_its_adapters_segments() -> None:
    segments = (Segment(0, 20, 2), Segment(20, 1, 0), Segment(21, 16, 2))
    work = WorkTables.of(segments, (40, 8, 40), token_block=16)
    starts: dict[int, list[int]] = {}
    for start, slot, first, end in work.owners.tolist():
        assert all(piece[2] == slot for piece in work.rows[first:end].tolist())
        assert sum(piece[1] for piece in work.rows[first:end].tolist()) == {0: 1, 2: 36}[slot]
        starts.setdefault(slot, []).append(start)
    assert starts == {0: [0], 2: [0, 16, 32]}


def test_short_segments_are_cut_in_pieces_of_16_and_long_ones_of_64() -> None:
    assert WorkTables.of([Segment(n, 1, n) for n in range(100)], [8] * 100).token_block == 16
    assert WorkTables.of([Segment(0, 33, 0)], [8]).token_block == 64
    assert WorkTables.of([], []).rows.shape == (0, 3)


def test_groups_share_tables_where_adapters_have_the_same_ranks() -> None:
    tables = StepTables(Segments((Segment(0, 1, 2), Segment(1, 1, 0)), 2), CPU)
    both = tables.at(np.array([[8, 0], [40, 40], [0, 24]]))
    assert both.items.tolist() == [[1, 1, 0, 0], [0, 1, 0, 2], [0, 1, 16, 2]]
    assert tables.at(np.array([[8], [0], [24]])) is both
    assert tables.at(np.array([[0, 0], [8, 8], [8, 0]])).items.tolist() == [[0, 1, 0, 2]]
    assert len(tables.at(np.array([[0], [8], [0]])).items) == 0


def test_sums_are_split_by_the_room_of_the_tables_not_by_what_is_in_them() -> None:
    fixed = FixedTables(32, 16, CPU)
    before = fixed.tables.splits(3, 4096)
    fixed.fill(WorkTables.of([Segment(0, 1, 0)], [16], 16))
    assert fixed.tables.splits(3, 4096) == before == 8
    assert fixed.tables.splits(3, 100) == 1
    assert FixedTables(512, 16, CPU).tables.splits(3, 14336) == 1


def test_what_was_filled_in_before_is_gone() -> None:
    fixed = FixedTables(4, 16, CPU)
    fixed.fill(WorkTables.of([Segment(n, 1, n) for n in range(4)], [8] * 4, 16))
    fixed.fill(WorkTables.of([Segment(7, 1, 1)], [8], 16))
    assert fixed.tables.items.tolist() == [[7, 1, 0, 1], *[[0] * 4] * 3]
    assert fixed.tables.rows.tolist() == [[7, 1, 1], *[[0] * 3] * 3]
    assert not fixed.fits(WorkTables.of([Segment(0, 1, 0)], [17], 16))
    assert not fixed.fits(WorkTables.of([Segment(n, 1, n) for n in range(5)], [8] * 5, 16))


KERNELS = ("shrink_kernel", "expand_kernel", "outer_kernel")


@pytest.mark.parametrize(("kernel", "dtype"), list(itertools.product(KERNELS, ("bf16", "fp32"))))
def test_the_kernels_compile_for_an_h200(kernel: str, dtype: str) -> None:
    pytest.importorskip("triton")
    triton_cases.compile_for(90, kernel, dtype)
