"""What recorded steps must answer: the same as steps that are run as they are. On a GPU, or in Triton's interpreter."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tests.tiny_families import VOCABULARY
from tests.triton_cases import close
from trellis.bases import BaseFacts, read_base
from trellis.engine.batch import Piece
from trellis.engine.cuda.attention import CudaBackend
from trellis.engine.cuda.graphs import CudaRecorder, DecodeGraphs, Key, Recorder, Recording
from trellis.engine.runner import Runner, RunnerLimits
from trellis.lora.host import HostAdapter
from trellis.lora.weights import LoraPair, LoraWeights

RANKS = (8, 20, 8)
PROMPTS = (5, 17, 3, 30, 1)


@dataclass(frozen=True, slots=True)
class Again:
    """A recording that does the work anew: what a graph does, without one."""

    work: Callable[[], None]

    def replay(self) -> None:
        self.work()


def again(work: Callable[[], None]) -> Recording:
    """Like a recorder, which does nothing but record."""
    return Again(work)


def replays(base: str, device: str) -> None:
    """Steps of any number of rows and any mix of adapters, one after another through the same few graphs."""
    runner, facts = _runner(base, device)
    slots: list[int | None] = [None, *(_adapter(runner, facts, seed, rank) for seed, rank in enumerate(RANKS))]
    graphs = _graphs(runner, CudaRecorder() if device == "cuda" else again)
    _start(runner, slots)
    steps: list[tuple[Sequence[int], Sequence[int]]] = [
        ((0, 1, 2, 3, 4), (0, 1, 1, 2, 3)),
        ((4, 3, 2, 1), (0, 1, 2, 3)),
        ((0, 1), (0, 0)),
        ((3, 1, 0, 2, 4), (3, 2, 1, 0, 0)),
        ((0,), (1,)),
    ]
    tolerance = 1e-5 if runner.dtype == torch.float32 else 3e-2
    for sequences, chosen in steps:
        pieces = _decoding(sequences, [slots[slot] for slot in chosen])
        close(_through(runner, graphs, pieces), _plain(runner, pieces), tolerance)
    assert set(graphs.keys) == {Key(8, 4, 32), Key(4, 4, 32), Key(2, 0, 0), Key(1, 1, 16)}


def moves(base: str, device: str) -> None:
    """Where adapters lie is read when a graph is replayed; they have moved since it was recorded."""
    runner, facts = _runner(base, device)
    first, *slots = (_adapter(runner, facts, seed, rank) for seed, rank in enumerate((8, 20, 8)))
    graphs = _graphs(runner, CudaRecorder() if device == "cuda" else again)
    pieces = [Piece([4 + number], 0, [number], slot, wants_logits=True) for number, slot in enumerate(slots)]
    _through(runner, graphs, pieces)
    before = [runner.bank.slot_range(slot)[0] for slot in slots]
    runner.bank.remove(first)
    _adapter(runner, facts, seed=9, rank=38)  # for which gaps must be closed
    assert all(runner.bank.slot_range(slot)[0] < start for slot, start in zip(slots, before, strict=True))
    tolerance = 1e-5 if runner.dtype == torch.float32 else 3e-2
    close(_through(runner, graphs, pieces), _plain(runner, pieces), tolerance)
    assert len(graphs.keys) == 1


def _plain(runner: Runner, pieces: Sequence[Piece]) -> Tensor:
    runner._graphs = None
    return runner.step(pieces).clone()


def _through(runner: Runner, graphs: DecodeGraphs, pieces: Sequence[Piece]) -> Tensor:
    runner._graphs = graphs
    return runner.step(pieces).clone()


def leaves_prompts(base: str, device: str) -> None:
    """A step with a chunk of a prompt is run as it is."""
    runner, _ = _runner(base, device)
    graphs = _graphs(runner, CudaRecorder() if device == "cuda" else again)
    pieces = [Piece([1, 2, 3], 0, [0], None, wants_logits=True), Piece([4], 0, [1], None, wants_logits=True)]
    assert torch.equal(_through(runner, graphs, pieces), _plain(runner, pieces))
    assert not graphs.keys


def survives(base: str, device: str) -> None:
    """What can't be recorded is run as it is from then on, and not tried again."""
    runner, _ = _runner(base, device)
    tried = []

    def fail(work: Callable[[], None]) -> Recording:
        tried.append(work)
        raise RuntimeError("operation not permitted when stream is capturing")

    graphs = _graphs(runner, fail)
    pieces = [Piece([4], 0, [1], None, wants_logits=True)]
    for _ in range(2):
        assert torch.equal(_through(runner, graphs, pieces), _plain(runner, pieces))
    assert len(tried) == 1


def forgets(base: str, device: str) -> None:
    """No more graphs are kept than allowed: those that were not used for the longest time go."""
    runner, _ = _runner(base, device)
    graphs = _graphs(runner, CudaRecorder() if device == "cuda" else again, most_graphs=2)
    for count in (1, 2, 1, 3):
        pieces = [Piece([4], 0, [block], None, wants_logits=True) for block in range(count)]
        close(_through(runner, graphs, pieces), _plain(runner, pieces), 1e-5)
    assert graphs.keys == (Key(1, 0, 0), Key(4, 0, 0))


def _runner(base: str, device: str) -> tuple[Runner, BaseFacts]:
    facts = read_base(str(Path(base)))
    runner = Runner.load(facts, RunnerLimits(kv_blocks=24, bank_rows=64, max_slots=6), precision="fp32", device=device)
    if device == "cpu":
        runner._attention._backend = CudaBackend()  # by Triton's interpreter
    return runner, facts


def _graphs(runner: Runner, recorder: Recorder, most_graphs: int = 64) -> DecodeGraphs:
    return DecodeGraphs(
        runner._run,
        rank_of=runner.bank.slot_rank,
        context_length=runner.context_length,
        block_tokens=runner.cache.block_tokens,
        device=runner.device,
        recorder=recorder,
        most_graphs=most_graphs,
    )


def _adapter(runner: Runner, facts: BaseFacts, seed: int, rank: int) -> int:
    """On all linears, but q and v alone where the seed is 2."""
    generator = torch.Generator().manual_seed(seed)
    pairs = {
        path: LoraPair(
            torch.randn(rank, inputs, generator=generator) * 0.2,
            torch.randn(outputs, rank, generator=generator) * 0.2,
            2.0,
        )
        for path, (outputs, inputs) in facts.linear_shapes.items()
        if seed != 2 or path.endswith(("q_proj", "v_proj"))
    }
    groups = tuple(bank.group for bank in runner.bank.groups.values())
    return runner.bank.add(HostAdapter.pack(LoraWeights(str(seed), pairs), groups, runner.dtype))


def _blocks(sequence: int) -> list[int]:
    return [3 * sequence + 2, 3 * sequence, 3 * sequence + 1]


def _start(runner: Runner, slots: Sequence[int | None]) -> None:
    generator = torch.Generator().manual_seed(3)
    for sequence, length in enumerate(PROMPTS):
        tokens = torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()
        runner.step([Piece(tokens, 0, _blocks(sequence), slots[sequence % len(slots)], wants_logits=True)])


def _decoding(sequences: Sequence[int], slots: Sequence[int | None]) -> list[Piece]:
    return [
        Piece([7 + sequence], PROMPTS[sequence], _blocks(sequence), slot, wants_logits=True)
        for sequence, slot in zip(sequences, slots, strict=True)
    ]
