from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests import paged_cases, triton_cases
from tests.paged_cases import Case

from trellis.engine.cuda.attention import Prompts
from trellis.engine.cuda.paged import _splits

DECODE = ((0, 1), (15, 1), (16, 1), (40, 1))
MIXED = ((3, 1), (0, 17), (20, 9), (70, 1))
CASES = [
    Case("decode", DECODE),
    Case("decode-many-queries-a-head", DECODE, queries=20, heads=1),
    Case("decode-odd-sizes", DECODE, queries=6, heads=3, key=24, value=40),
    Case("decode-window", DECODE, window=6),
    Case("decode-cap", DECODE, cap=2.0),
    Case("decode-splits", ((900, 1), (5, 1)), queries=2, heads=1),
    Case("decode-splits-window", ((900, 1), (5, 1)), queries=2, heads=1, window=300),
    Case("prompts", ((0, 5), (0, 33))),
    Case("mixed", MIXED),
    Case("mixed-window-cap", MIXED, window=7, cap=3.0),
    Case("mixed-fp16", MIXED, dtype=torch.float16),
]
ON_A_GPU = [
    *CASES,
    *(replace(case, name=f"{case.name}-bf16", dtype=torch.bfloat16) for case in CASES if "fp16" not in case.name),
    Case("8b", ((4000, 1), (100, 1), (0, 700), (512, 512)), 32, 8, 128, 128, dtype=torch.bfloat16),
    Case("8b-window", ((4000, 1), (100, 1), (0, 700), (512, 512)), 32, 8, 128, 128, 128, dtype=torch.bfloat16),
]


@pytest.fixture(scope="module")
def interpret() -> Iterator[Callable[..., Any]]:
    pytest.importorskip("triton")
    with triton_cases.interpreter() as run:
        yield run


@pytest.mark.parametrize("case", CASES, ids=str)
def test_tokens_read_their_own_sequence_up_to_themselves(interpret: Callable[..., Any], case: Case) -> None:
    interpret(paged_cases.attends, case, "cpu")


def test_padding_writes_nowhere_and_reads_nothing(interpret: Callable[..., Any]) -> None:
    interpret(paged_cases.padded, "cpu")


@pytest.mark.gpu
@pytest.mark.parametrize("case", ON_A_GPU, ids=str)
def test_tokens_read_their_own_sequence_on_a_gpu(case: Case) -> None:
    paged_cases.attends(case, "cuda")


@pytest.mark.gpu
def test_padding_writes_nowhere_on_a_gpu() -> None:
    paged_cases.padded("cuda")


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("kernel", ["write_kernel", "decode_kernel", "merge_kernel"])
def test_the_kernels_compile_for_an_h200(kernel: str, dtype: str) -> None:
    pytest.importorskip("triton")
    paged_cases.compile_for(90, kernel, dtype)


def test_prompts_are_packed_without_the_sequences_that_decode() -> None:
    layout = paged_cases.layout_of(Case("mixed", MIXED), "cpu")
    prompts = Prompts.of(layout)
    assert prompts.rows_C.tolist() == list(range(1, 27))
    assert prompts.starts_q.tolist() == [0, 17, 26]
    assert prompts.starts_k.tolist() == [0, 17, 46]
    assert (prompts.most_q, prompts.most_k) == (17, 29)
    assert prompts.reads_L is not None
    assert prompts.reads_L[:17].tolist() == layout.rows_T[1:18].tolist()
    assert prompts.reads_L[-9:].tolist() == layout.rows_T[18:27].tolist()


def test_prompts_that_begin_read_what_the_step_brings() -> None:
    assert Prompts.of(paged_cases.layout_of(Case("new", ((0, 5), (9, 1), (0, 33))), "cpu")).reads_L is None


def test_sequences_are_split_until_a_gpu_is_busy() -> None:
    assert _splits(8, 8192) == 16
    assert _splits(32 * 8, 8192) == 4
    assert _splits(256 * 8, 8192) == 1
    assert _splits(8, 300) == 1
