"""What the Triton kernels must compute, on any device: run by tests on a GPU here, and in Triton's interpreter there.

The interpreter must be asked for before Triton is imported, and nobody else must meet it: it gets a process of its own.
"""

import importlib
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from trellis.lora.bank import GroupBank
from trellis.lora.groups import LoraGroup
from trellis.lora.ops import reference, triton
from trellis.lora.ops.triton_tables import FixedTables, WorkTables
from trellis.lora.segments import Segment, Segments

CASE_SECONDS = 100

Runs = tuple[tuple[int | None, int], ...]
"""(Which of the adapters, tokens)."""


@dataclass(frozen=True, slots=True)
class Case:
    """Adapters of these ranks at one group of linears, and the rows of a batch."""

    ranks: tuple[int, ...]
    in_features: int
    out_features: tuple[int, ...]
    runs: Runs
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        count = sum(tokens for _, tokens in self.runs)
        sizes = "+".join(map(str, self.out_features))
        return f"{count}x{len(self.ranks)}r{max(self.ranks)}-{self.in_features}-{sizes}-{str(self.dtype)[6:]}"

    @property
    def tolerance(self) -> float:
        """Of a sum of products of numbers near 1, relative to the largest."""
        return 1e-5 if self.dtype == torch.float32 else 2e-2


class Scene:
    """A case as tensors: random weights, no part of adapter 0's beyond the first, rows padded to 8 with zeros."""

    def __init__(self, case: Case, device: str) -> None:
        generator = torch.Generator().manual_seed(7)
        count, parts, columns = sum(-(-rank // 8) * 8 for rank in case.ranks), len(case.out_features), 0

        def draw(*sizes: int) -> Tensor:
            return torch.randn(*sizes, generator=generator)

        a_RPI, b_RO = torch.zeros(count, parts, case.in_features), torch.zeros(count, sum(case.out_features))
        scale_SP = torch.rand(len(case.ranks), parts, generator=generator) + 0.5
        self.owned = []
        for slot, rank in enumerate(case.ranks):
            start = columns
            columns += -(-rank // 8) * 8
            self.owned.append((start, columns - start))
            a_RPI[start : start + rank] = draw(rank, parts, case.in_features) / case.in_features**0.5
            b_RO[start : start + rank] = draw(rank, sum(case.out_features))
            if slot == 0 and parts > 1:
                scale_SP[slot, 1:] = 0
                a_RPI[start : start + rank, 1:] = 0
                b_RO[start : start + rank, case.out_features[0] :] = 0
        group = LoraGroup("g", tuple(f"p{n}" for n in range(parts)), case.in_features, case.out_features)
        dtype = case.dtype
        self.bank = GroupBank(group, a_RPI.to(device, dtype), b_RO.to(device, dtype), scale_SP.to(device))
        self.segments = self.segments_of(case.runs)
        self.x_TI = draw(self.segments.tokens, case.in_features).to(device, dtype)
        self.y_TO = draw(self.segments.tokens, sum(case.out_features)).to(device, dtype)

    def segments_of(self, runs: Runs) -> Segments:
        """Without merging neighbours: a slot may have several segments."""
        found, token = [], 0
        for slot, tokens in runs:
            if slot is not None and tokens:
                found.append(Segment(token, tokens, *self.owned[slot], slot))
            token += tokens
        return Segments(tuple(found), token)


def close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Within the tolerance, relative to the largest that is expected."""
    largest = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(found.float(), expected.float(), atol=tolerance * largest, rtol=0)


def forward(case: Case, device: str) -> None:
    """The same as `reference`; base-only rows are untouched to the bit."""
    scene = Scene(case, device)
    found, expected = scene.y_TO.clone(), scene.y_TO.clone()
    triton.add_lora(found, scene.x_TI, scene.bank, scene.segments)
    reference.add_lora(expected, scene.x_TI, scene.bank, scene.segments)
    close(found, expected, case.tolerance)
    alone = torch.ones(len(found), dtype=torch.bool, device=device)
    for segment in scene.segments.all:
        alone[segment.span] = False
    assert torch.equal(found[alone], scene.y_TO[alone])


def backward(case: Case, device: str) -> None:
    """The gradients that autograd finds through the formula; those of others' rows stay what they were."""
    scene = Scene(case, device)
    bank, segments = scene.bank, scene.segments
    gy_TO = torch.randn_like(scene.y_TO, dtype=torch.float32).to(case.dtype)
    expected = _expected_gradients(scene, gy_TO)
    found = [torch.full_like(tensor, 0.5) for tensor in (scene.x_TI, bank.a_RPI, bank.b_RO)]
    triton.backward(found[0], found[1], found[2], gy_TO, scene.x_TI, bank, segments)
    for one, other in zip(found, expected, strict=True):
        close(one, other + 0.5, case.tolerance)
    for slot, (start, count) in enumerate(scene.owned):
        if all(segment.slot != slot for segment in segments.all):
            rows = slice(start, start + count)
            assert all((side[rows] == 0.5).all() for side in found[1:])


def _expected_gradients(scene: Scene, gy_TO: Tensor) -> list[Tensor]:
    bank = scene.bank
    x_TI, a_RPI, b_RO = (t.float().clone().requires_grad_() for t in (scene.x_TI, bank.a_RPI, bank.b_RO))
    y_TO = torch.zeros_like(scene.y_TO, dtype=torch.float32) + 0 * x_TI.sum() + 0 * a_RPI.sum() + 0 * b_RO.sum()
    for segment in scene.segments.all:
        added = []
        for part, b_ro in enumerate(b_RO[segment.rank_rows].split(bank.group.out_features, 1)):
            s_tr = x_TI[segment.span] @ a_RPI[segment.rank_rows, part].T
            added.append(bank.scale_SP[segment.slot, part] * (s_tr @ b_ro))
        y_TO = y_TO.index_add(0, torch.arange(len(y_TO), device=y_TO.device)[segment.span], torch.cat(added, 1))
    return list(torch.autograd.grad(y_TO, (x_TI, a_RPI, b_RO), gy_TO.float()))


def replay(case: Case, others: Runs, device: str) -> None:
    """Tables in one place do what they are filled with, one step after another, however full they are."""
    scene = Scene(case, device)
    fixed = FixedTables(items=64, rank=64, device=torch.device(device))
    for runs in (case.runs, others, case.runs):
        segments = scene.segments_of(runs)
        assert segments.tokens <= len(scene.x_TI)
        fixed.fill(WorkTables.of(segments.all, token_block=fixed.tables.token_block))
        segments.kept[triton.NAME] = fixed.tables
        found, expected = scene.y_TO.clone(), scene.y_TO.clone()
        triton.add_lora(found, scene.x_TI, scene.bank, segments)
        reference.add_lora(expected, scene.x_TI, scene.bank, segments)
        close(found, expected, case.tolerance)


def isolated(case: Case, device: str) -> None:
    """What is not finite in one adapter's rows changes no other row, and no other gradient, by a bit."""
    outcomes = []
    for poison in (0.0, float("nan")):
        scene = Scene(case, device)
        first = scene.segments.all[0]
        scene.x_TI[first.span] += poison
        scene.bank.a_RPI[first.rank_rows] += poison
        bank, segments = scene.bank, scene.segments
        found = [torch.zeros_like(tensor) for tensor in (scene.x_TI, bank.a_RPI, bank.b_RO)]
        triton.add_lora(scene.y_TO, scene.x_TI, bank, segments)
        ones = torch.ones_like(scene.y_TO)
        triton.backward(found[0], found[1], found[2], ones, scene.x_TI, bank, segments)
        tokens = torch.ones(len(scene.x_TI), dtype=torch.bool, device=device)
        tokens[first.span] = False
        rows = torch.ones(len(scene.bank.b_RO), dtype=torch.bool, device=device)
        rows[first.rank_rows] = False
        outcomes.append([scene.y_TO[tokens], found[0][tokens], found[1][rows], found[2][rows]])
    assert all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))


@contextmanager
def interpreter() -> Iterator[Callable[..., Any]]:
    """Runs functions of a module in a process in which Triton interprets."""
    with mock.patch.dict(os.environ, TRITON_INTERPRET="1", TRELLIS_NATIVE="0", OMP_NUM_THREADS="1"):
        pool = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        pool.submit(os.getpid).result(CASE_SECONDS)  # it starts, and reads the environment, with the first task

    def run(function: Callable[..., None], *arguments: object) -> None:
        pool.submit(function, *arguments).result(CASE_SECONDS)

    with pool:
        yield run


def compile_for(capability: int, name: str, dtype: str) -> None:
    """Down to machine code, which needs no GPU: with the blocks of decoding and of long segments."""
    compiler = importlib.import_module("triton.compiler")
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", capability, 32)
    kernel = getattr(triton.kernels(), name)
    tensors = {"x": dtype, "y": dtype, "w": dtype, "grad": dtype, "s": "fp32", "scale": "fp32"}
    tables = ("items", "parts", "tiles", "owners")
    for tokens, splits in ((16, 8), (64, 1)):
        constants = {"SPLITS": splits, "BLOCK_T": tokens, "BLOCK_R": 16, "BLOCK_C": 128, "ALIGN": 16}
        signature = {}
        for argument in kernel.arg_names:
            if argument in constants:
                signature[argument] = "constexpr"
            elif argument in tensors:
                signature[argument] = f"*{tensors[argument]}"
            else:
                signature[argument] = "*i32" if argument in tables else "i32"
        kept = {argument: value for argument, value in constants.items() if argument in kernel.arg_names}
        source = compiler.ASTSource(fn=kernel, signature=signature, constexprs=kept)
        compiled = compiler.compile(source, target=target, options=dict(triton.COMPILE))
        assert compiled.asm["cubin"]
