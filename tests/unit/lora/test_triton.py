import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from tests import triton_cases
from tests.triton_cases import Case

from trellis.lora.ops import triton
from trellis.lora.ops.triton_tables import FixedTables, WorkTables
from trellis.lora.segments import Segment

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


@pytest.mark.gpu
def test_what_is_not_finite_stays_with_its_owner_on_a_gpu() -> None:
    triton_cases.isolated(MIXED, "cuda")


def test_a_cpu_is_not_for_these_kernels() -> None:
    assert not triton.supports(CPU, torch.float32)
    assert not triton.supports(torch.device("cuda"), torch.float64)


def test_pieces_cover_every_token_and_rank_row_once() -> None:
    segments = (Segment(3, 20, 8, 40, 2), Segment(23, 1, 0, 8, 0), Segment(30, 16, 8, 40, 2))
    work = WorkTables.of(segments, token_block=16)
    covered = np.zeros((46, 48), dtype=int)
    for token, tokens, row, rows, start, slot in work.items:
        covered[token : token + tokens, row : row + rows] += 1
        assert row - start == {0: 0, 2: 8}[slot]
    expected = np.zeros_like(covered)
    for segment in segments:
        expected[segment.span, segment.rank_rows] = 1
    assert (covered == expected).all()
    assert work.rank == 48


def test_an_owners_pieces_are_all_of_its_adapters_segments() -> None:
    segments = (Segment(0, 20, 8, 40, 2), Segment(20, 1, 0, 8, 0), Segment(21, 16, 8, 40, 2))
    work = WorkTables.of(segments, token_block=16)
    rows: dict[int, int] = {}
    for row, count, start, slot, first, end in work.owners.tolist():
        assert row == {0: 0, 2: 8}[slot] + start
        assert all(piece[4] == slot for piece in work.rows[first:end].tolist())
        assert sum(piece[1] for piece in work.rows[first:end].tolist()) == {0: 1, 2: 36}[slot]
        rows[slot] = rows.get(slot, 0) + count
    assert rows == {0: 8, 2: 40}


def test_short_segments_are_cut_in_pieces_of_16_and_long_ones_of_64() -> None:
    assert WorkTables.of([Segment(n, 1, 0, 8, n) for n in range(100)]).token_block == 16
    assert WorkTables.of([Segment(0, 33, 0, 8, 0)]).token_block == 64
    assert WorkTables.of([]).rows.shape == (0, 5)


def test_sums_are_split_by_the_room_of_the_tables_not_by_what_is_in_them() -> None:
    fixed = FixedTables(32, 16, CPU)
    before = fixed.tables.splits(3, 4096)
    fixed.fill(WorkTables.of([Segment(0, 1, 0, 16, 0)], 16))
    assert fixed.tables.splits(3, 4096) == before == 8
    assert fixed.tables.splits(3, 100) == 1
    assert FixedTables(512, 16, CPU).tables.splits(3, 14336) == 1


def test_what_was_filled_in_before_is_gone() -> None:
    fixed = FixedTables(4, 16, CPU)
    fixed.fill(WorkTables.of([Segment(n, 1, 8 * n, 8, n) for n in range(4)], 16))
    fixed.fill(WorkTables.of([Segment(7, 1, 8, 8, 1)], 16))
    assert fixed.tables.items.tolist() == [[7, 1, 8, 8, 0, 1], *[[0] * 6] * 3]
    assert fixed.tables.rows.tolist() == [[7, 1, 8, 8, 1], *[[0] * 5] * 3]
    assert not fixed.fits(WorkTables.of([Segment(0, 1, 0, 17, 0)], 16))
    assert not fixed.fits(WorkTables.of([Segment(n, 1, 0, 8, n) for n in range(5)], 16))


KERNELS = ("shrink_kernel", "expand_kernel", "outer_kernel")


@pytest.mark.parametrize(("kernel", "dtype"), list(itertools.product(KERNELS, ("bf16", "fp32"))))
def test_the_kernels_compile_for_an_h200(kernel: str, dtype: str) -> None:
    pytest.importorskip("triton")
    triton_cases.compile_for(90, kernel, dtype)
