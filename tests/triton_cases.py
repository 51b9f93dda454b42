"""What the Triton kernels must compute, on any device: run by tests on a GPU here, and in Triton's interpreter there.

The interpreter must be asked for before Triton is imported, and nobody else must meet it: it gets a process of its own.
"""

import importlib
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from trellis.lora.bank import AdapterBank
from trellis.lora.groups import LoraGroup
from trellis.lora.host import HostAdapter, sides
from trellis.lora.ops import reference, triton
from trellis.lora.ops.triton_tables import FixedTables, WorkTables
from trellis.lora.segments import Segments
from trellis.lora.weights import LoraPair, LoraWeights

CASE_SECONDS = 100
GAP = 16
"""Rank of an adapter that was before all others in the bank."""

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
    """A case as tensors: random weights in a bank, of one rank less from part to part, no part of adapter 0's beyond the
    first. All that is no adapter's own is NaN: who reads it will be seen.
    """

    def __init__(self, case: Case, device: str, before: int = 0) -> None:
        """With so many numbers of nobody's before all adapters."""
        self._generator = torch.Generator().manual_seed(7)
        group = LoraGroup(
            "g", tuple(f"p{n}" for n in range(len(case.out_features))), case.in_features, case.out_features
        )
        groups = [LoraGroup("before", ("b",), 8, (8,)), group]
        rows = sum(case.ranks) + GAP + -(-before // sum(group.row_values for group in groups))
        self.adapters = AdapterBank(groups, rows, len(case.ranks) + 1, case.dtype, device)
        self.adapters._map.take(-1, 0, before)
        self.bank = self.adapters.groups["g"]
        gap = self.add(GAP)
        self.slots = [self.add(rank, only_first=number == 0) for number, rank in enumerate(case.ranks)]
        self.adapters.remove(gap)
        self._leave_only_what_is_owned()
        self.segments = self.segments_of(case.runs)
        self.x_TI = self._draw(self.segments.tokens, case.in_features).to(device, case.dtype)
        self.y_TO = self._draw(self.segments.tokens, sum(case.out_features)).to(device, case.dtype)

    def add(self, rank: int, only_first: bool = False) -> int:
        """A random adapter; its slot."""
        group, pairs = self.bank.group, {"b": LoraPair(self._draw(1, 8), self._draw(8, 1), 1.0)}
        for number, (part, width) in enumerate(zip(group.parts, group.out_features, strict=True)):
            own = max(1, rank - number)
            a_RI = self._draw(own, group.in_features) / group.in_features**0.5
            scaling = float(torch.rand((), generator=self._generator)) + 0.5
            if not (only_first and number):
                pairs[part] = LoraPair(a_RI, self._draw(width, own), scaling)
        groups = [bank.group for bank in self.adapters.groups.values()]
        return self.adapters.add(HostAdapter.pack(LoraWeights("", pairs), groups, self.adapters.dtype))

    def segments_of(self, runs: Runs) -> Segments:
        """Without merging neighbours: a slot may have several segments."""
        return Segments.apart([(None if who is None else self.slots[who], tokens) for who, tokens in runs])

    def work_of(self, segments: Segments, token_block: int) -> WorkTables:
        """The pieces for all groups together."""
        ranks = [self.adapters.slot_rank(segment.slot) for segment in segments.all]
        return WorkTables.of(segments.all, ranks, token_block)

    def sides(self, values_V: Tensor, slot: int, part: int) -> tuple[Tensor, Tensor]:
        """A and B transposed in any tensor laid out as the bank's; of no rows where the adapter leaves the part alone."""
        group = self.bank.group
        place, rank = (int(table[slot, part]) for table in (self.bank.places_SP, self.bank.ranks_SP))
        return sides(values_V, place, rank, group.in_features, group.out_features[part])

    def owned(self, slots: Iterable[int]) -> Tensor:
        """Which numbers of the bank are weights of these slots at the group."""
        owned_V = torch.zeros_like(self.bank.values_V, dtype=torch.bool)
        for slot in slots:
            for part in range(len(self.bank.group.parts)):
                for side in self.sides(owned_V, slot, part):
                    side[:] = True
        return owned_V

    def _leave_only_what_is_owned(self) -> None:
        self.bank.values_V.masked_fill_(~self.owned(self.slots), float("nan"))

    def _draw(self, *sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=self._generator)


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
    """The gradients that autograd finds through the formula; all that is not of an adapter with tokens stays what it was."""
    scene = Scene(case, device)
    bank, segments = scene.bank, scene.segments
    gy_TO = torch.randn_like(scene.y_TO, dtype=torch.float32).to(case.dtype)
    expected = _expected_gradients(scene, gy_TO)
    found = [torch.full_like(tensor, 0.5) for tensor in (scene.x_TI, bank.values_V)]
    triton.backward(found[0], found[1], gy_TO, scene.x_TI, bank, segments)
    for one, other in zip(found, expected, strict=True):
        close(one, other + 0.5, case.tolerance)
    assert (found[1][~scene.owned(segment.slot for segment in segments.all)] == 0.5).all()


def _expected_gradients(scene: Scene, gy_TO: Tensor) -> list[Tensor]:
    bank = scene.bank
    x_TI, values_V = (t.float().nan_to_num().clone().requires_grad_() for t in (scene.x_TI, bank.values_V))
    y_TO = torch.zeros_like(scene.y_TO, dtype=torch.float32) + 0 * x_TI.sum() + 0 * values_V.sum()
    for segment in scene.segments.all:
        added = []
        for part in range(len(bank.group.parts)):
            a_RI, b_RO = scene.sides(values_V, segment.slot, part)
            added.append(bank.scale_SP[segment.slot, part] * (x_TI[segment.span] @ a_RI.T @ b_RO))
        y_TO = y_TO.index_add(0, torch.arange(len(y_TO), device=y_TO.device)[segment.span], torch.cat(added, 1))
    return list(torch.autograd.grad(y_TO, (x_TI, values_V), gy_TO.float()))


def replay(case: Case, others: Runs, device: str) -> None:
    """Tables in one place do what they are filled with, one step after another, however full they are."""
    scene = Scene(case, device)
    fixed = FixedTables(items=64, rank=64, device=torch.device(device))
    for runs in (case.runs, others, case.runs):
        segments = scene.segments_of(runs)
        assert segments.tokens <= len(scene.x_TI)
        fixed.fill(scene.work_of(segments, fixed.tables.token_block))
        segments.kept[triton.NAME] = fixed.tables
        _check_forward(scene, segments, case.tolerance)


def moved(case: Case, device: str) -> None:
    """Tables need not be filled anew when adapters move in the bank."""
    scene = Scene(case, device)
    fixed = FixedTables(items=64, rank=64, device=torch.device(device))
    fixed.fill(scene.work_of(scene.segments, fixed.tables.token_block))
    scene.segments.kept[triton.NAME] = fixed.tables
    before_S = scene.bank.places_SP[:, 0].tolist()
    scene.add(GAP + 1)  # where nobody has gone it has no room
    after_S = scene.bank.places_SP[:, 0].tolist()
    assert all(before_S[slot] != after_S[slot] for slot in scene.slots)
    _check_forward(scene, scene.segments, case.tolerance)


def far(case: Case, device: str, before: int = 2**31) -> None:
    """The same bits where adapters lie so far behind that 32 bits do not say where."""
    outcomes = []
    for start in (0, before):
        scene = Scene(case, device, start)
        grad_x_TI, grad_V = (torch.zeros_like(tensor) for tensor in (scene.x_TI, scene.bank.values_V))
        triton.add_lora(scene.y_TO, scene.x_TI, scene.bank, scene.segments)
        triton.backward(grad_x_TI, grad_V, torch.ones_like(scene.y_TO), scene.x_TI, scene.bank, scene.segments)
        assert not grad_V[:start].any()
        length = min(len(grad_V) - start, sum(case.ranks) * scene.adapters.row_values)
        outcomes.append([scene.y_TO, grad_x_TI, grad_V[start : start + length]])
        assert all(side.any() for side in outcomes[-1])
    assert all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))


def _check_forward(scene: Scene, segments: Segments, tolerance: float) -> None:
    found, expected = scene.y_TO.clone(), scene.y_TO.clone()
    triton.add_lora(found, scene.x_TI, scene.bank, segments)
    reference.add_lora(expected, scene.x_TI, scene.bank, segments)
    close(found, expected, tolerance)


def isolated(case: Case, device: str) -> None:
    """What is not finite in one adapter's rows changes no other row, and no other gradient, by a bit; nor does what was in
    memory before.
    """
    outcomes = []
    for poison in (0.0, float("nan")):
        scene = Scene(case, device)
        first = scene.segments.all[0]
        scene.x_TI[first.span] += poison
        owned_V = scene.owned([first.slot])
        scene.bank.values_V[owned_V] += poison
        grad_x_TI, grad_V = (torch.zeros_like(tensor) for tensor in (scene.x_TI, scene.bank.values_V))
        with _empty_is_nan():
            triton.add_lora(scene.y_TO, scene.x_TI, scene.bank, scene.segments)
            ones_TO = torch.ones_like(scene.y_TO)
            triton.backward(grad_x_TI, grad_V, ones_TO, scene.x_TI, scene.bank, scene.segments)
        tokens = torch.ones(len(scene.x_TI), dtype=torch.bool, device=device)
        tokens[first.span] = False
        outcomes.append([scene.y_TO[tokens], grad_x_TI[tokens], grad_V[~owned_V]])
    assert all(torch.equal(one, other) for one, other in zip(*outcomes, strict=True))


@contextmanager
def _empty_is_nan() -> Iterator[None]:
    """As PyTorch fills what it does not initialise, where it is asked to be deterministic."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


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
    tensors = {"x": dtype, "y": dtype, "values": dtype, "grad": dtype, "s": "fp32", "scale": "fp32", "places": "i64"}
    tables = ("ranks", "items", "parts", "tiles", "owners")
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
