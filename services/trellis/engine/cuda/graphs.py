"""Steps of decoding, recorded once as CUDA graphs and replayed: hundreds of small launches become one.

A graph is fixed in its sizes, so there is one for each bucket of rows, of pieces of LoRA (a rank block of an adapter and
the rows that it serves) and of ranks; what a step leaves of a bucket is padding, which writes and reads nothing. Graphs
for the base alone hold no LoRA at all.

Tensors' shapes: T rows of the bucket, M blocks of a sequence as long as the context, N rows of the step, V vocabulary.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor

from trellis.engine.batch import Batch, Layout, Span
from trellis.engine.cuda import paged
from trellis.lora.ops import triton
from trellis.lora.ops.triton_tables import SHORT_BLOCK, FixedTables, WorkTables
from trellis.lora.segments import Segments

_log = logging.getLogger(__name__)

ROWS: Final = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_MOST_GRAPHS: Final = 64

Forward = Callable[[Batch, Segments | None], Tensor]
"""The logits (N, V) of a batch; what a runner does without graphs."""


class Recording(Protocol):
    """What was recorded."""

    def replay(self) -> None:
        """Do it again, with what the same tensors hold now."""
        ...


Recorder = Callable[[Callable[[], None]], Recording]
"""Does something, and keeps how."""


class CudaRecorder:
    """Records on the current device; all its graphs use one memory pool, for only one is run at a time."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], None]) -> Recording:
        """Kernels are compiled and libraries made ready before, on a stream of their own, as PyTorch asks."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Adapters are read into pinned memory by other threads meanwhile: that is no part of the graph, and no error.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        return graph


class Key(NamedTuple):
    """Sizes of a graph."""

    rows: int
    items: int
    """Pieces of LoRA; 0 for the base alone."""
    rank: int
    """Of the largest adapter for which there is room."""


@dataclass(frozen=True, slots=True)
class FixedStep:
    """A step's inputs in one place."""

    batch: Batch
    tables: FixedTables | None

    @classmethod
    def empty(cls, key: Key, most_blocks: int, block_tokens: int, device: torch.device) -> "FixedStep":
        """All padding."""

        def numbers(*sizes: int, value: int = 0, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.full(sizes, value, dtype=dtype, device=device)

        layout = Layout(
            tuple(Span(row, 1, 0) for row in range(key.rows)),
            torch.arange(key.rows + 1, dtype=torch.int32, device=device),
            numbers(key.rows, value=-1, dtype=torch.int32),
            numbers(key.rows, most_blocks, dtype=torch.int32),
            numbers(key.rows, value=-1),
            block_tokens,
        )
        kept_T = torch.arange(key.rows, device=device)
        batch = Batch(numbers(key.rows), numbers(key.rows), kept_T, (), layout)
        return cls(batch, FixedTables(key.items, key.rank, device) if key.items else None)

    def fill(self, batch: Batch, work: WorkTables | None) -> None:
        """Put another step in, and padding behind it."""
        mine, theirs = self.batch.layout, batch.layout
        count = len(theirs.rows_T)
        for to, source, padding in (
            (self.batch.token_ids_T, batch.token_ids_T, 0),
            (self.batch.positions_T, batch.positions_T, 0),
            (mine.positions_B, theirs.positions_B, -1),
            (mine.rows_T, theirs.rows_T, -1),
        ):
            to[:count].copy_(source)
            to[count:].fill_(padding)
        mine.blocks_BM[:count, : theirs.blocks_BM.shape[1]].copy_(theirs.blocks_BM)
        if self.tables is not None:
            assert work is not None
            self.tables.fill(work)


@dataclass(frozen=True, slots=True)
class _Graph:
    step: FixedStep
    recording: Recording


class DecodeGraphs:
    """Runs steps in which each piece is one token from graphs, and all others as they are.

    A graph is recorded when it is first wanted. Where recording fails (a model that waits for the device in the middle),
    it is said in the log and everything is run as it is.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        rank_of: Callable[[int], int],
        context_length: int,
        block_tokens: int,
        device: torch.device,
        recorder: Recorder,
        most_graphs: int = _MOST_GRAPHS,
    ) -> None:
        """`rank_of` says the largest rank of a slot's adapter."""
        self._forward = forward
        self._rank_of = rank_of
        self._most_blocks = -(-context_length // block_tokens)
        self._block_tokens = block_tokens
        self._device = device
        self._recorder: Recorder | None = recorder
        self._most_graphs = most_graphs
        self._graphs: OrderedDict[Key, _Graph] = OrderedDict()
        self._logits_TV: Tensor | None = None

    @property
    def keys(self) -> tuple[Key, ...]:
        """The sizes of what is recorded; what was used last is last."""
        return tuple(self._graphs)

    def run(self, batch: Batch, segments: Segments | None) -> Tensor:
        """The logits (N, V), in the order of the batch's `kept_N`."""
        if self._recorder is None or not batch.decodes or len(batch.runs) > ROWS[-1]:
            return self._forward(batch, segments)
        work = None if segments is None else self._work_of(segments)
        key = key_of(len(batch.runs), work)
        graph = self._graphs.get(key) or self._record(key, batch, segments, work, self._recorder)
        if graph is None:
            return self._forward(batch, segments)
        self._graphs.move_to_end(key)
        graph.step.fill(batch, work)
        graph.recording.replay()
        assert self._logits_TV is not None
        return self._logits_TV[batch.kept_N]

    def _work_of(self, segments: Segments) -> WorkTables:
        return WorkTables.of(segments.all, (self._rank_of(segment.slot) for segment in segments.all), SHORT_BLOCK)

    def _record(
        self, key: Key, batch: Batch, segments: Segments | None, work: WorkTables | None, recorder: Recorder
    ) -> _Graph | None:
        step = FixedStep.empty(key, self._most_blocks, self._block_tokens, self._device)
        step.fill(batch, work)
        fixed = segments if segments is None else _with_tables(segments, step.tables)
        logits_TV = self._room_for_logits(batch, segments)

        def decode() -> None:
            logits_TV[: key.rows].copy_(self._forward(step.batch, fixed))

        try:
            graph = _Graph(step, recorder(decode))
        except RuntimeError:
            _log.warning(
                "A step of decoding can't be recorded as a CUDA graph; steps are run one by one.", exc_info=True
            )
            self._recorder = None
            self._graphs.clear()
            return None
        self._graphs[key] = graph
        while len(self._graphs) > self._most_graphs:
            self._graphs.popitem(last=False)
        return graph

    def _room_for_logits(self, batch: Batch, segments: Segments | None) -> Tensor:
        """One place for the logits of all graphs, of which only one is run at a time."""
        if self._logits_TV is None:
            logits_NV = self._forward(batch, segments)
            self._logits_TV = logits_NV.new_zeros(ROWS[-1], logits_NV.shape[1])
        return self._logits_TV


def graphs_for(
    forward: Forward,
    *,
    rank_of: Callable[[int], int],
    context_length: int,
    block_tokens: int,
    device: torch.device,
    dtype: torch.dtype,
) -> DecodeGraphs | None:
    """None where steps are run as they are: without a GPU, or without Triton's kernels."""
    if device.type != "cuda" or not paged.supports(device) or not triton.supports(device, dtype):
        return None
    return DecodeGraphs(
        forward,
        rank_of=rank_of,
        context_length=context_length,
        block_tokens=block_tokens,
        device=device,
        recorder=CudaRecorder(),
    )


def key_of(rows: int, work: WorkTables | None) -> Key:
    """The least bucket in which a step has room."""
    rows = next(bucket for bucket in ROWS if bucket >= rows)
    if work is None or not work.segments:
        return Key(rows, 0, 0)
    return Key(rows, _power(len(work.items)), _power(work.rank))


def _with_tables(segments: Segments, tables: FixedTables | None) -> Segments:
    """These segments for the Triton op, whose kernels then read the tables that are filled before each replay."""
    assert tables is not None
    return Segments(segments.all, segments.tokens, {triton.NAME: tables.tables})


def _power(count: int) -> int:
    """The least power of two that is no less."""
    return 1 << (count - 1).bit_length()
