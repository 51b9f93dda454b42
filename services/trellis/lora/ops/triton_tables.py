"""Tables that cut a step's LoRA into pieces for the Triton kernels; made on the host, once a step, for all layers.

Three kinds of pieces, each a row of int32 numbers:
items   (first token, tokens, first rank row, slot): a block of tokens and a block of rank rows
rows    (first token, tokens, slot): a block of tokens
owners  (first rank row, slot, first and one past the last of its `rows`): a block of rank rows with all tokens of its
        adapter, which may be several segments

Rank rows count from a part's first, and there are as many as the adapter's largest part has: where a part's numbers lie, and
how many rank rows it has itself, the kernels read from the bank.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from typing import Final, Self

import numpy as np
import torch
from torch import Tensor

from trellis.bases import ALIGNMENT
from trellis.lora.segments import Segment, Segments

ITEM: Final = 4
ROW: Final = 3
OWNER: Final = 4
TILE: Final = 6
PART: Final = 2
RANK_BLOCK: Final = 16
SHORT_BLOCK: Final = 16
"""Tokens of a piece where segments are short, as in decoding: the least that tensor cores take."""
LONG_BLOCK: Final = 64
_MANY_TOKENS: Final = 32
_PROGRAMS: Final = 1024
"""So many at once keep the memory of a large GPU busy; sums are split until there are so many."""
_MOST_SPLITS: Final = 16
_LEAST_WIDTH: Final = 512

Numbers = tuple[int, ...]


@dataclass(frozen=True)
class WorkTables:
    """The pieces of one step."""

    segments: tuple[Segment, ...]
    ranks: tuple[int, ...]
    """Of each segment's adapter: the largest of the parts that are looked at."""
    token_block: int

    @classmethod
    def of(cls, segments: Iterable[Segment], ranks: Iterable[int], token_block: int | None = None) -> Self:
        """Pieces of 16 tokens where segments are short, else of 64; `ranks` are the segments' adapters'."""
        both = [(segment, rank) for segment, rank in zip(segments, ranks, strict=True) if segment.tokens and rank]
        both.sort(key=lambda pair: (pair[0].slot, pair[0].token))
        found = tuple(segment for segment, _ in both)
        if token_block is None:
            tokens = sum(segment.tokens for segment in found)
            token_block = SHORT_BLOCK if tokens <= _MANY_TOKENS * len(found) else LONG_BLOCK
        return cls(found, tuple(rank for _, rank in both), token_block)

    @cached_property
    def rank(self) -> int:
        """Of the largest adapter, padded to a block."""
        return _padded(max(self.ranks, default=0), RANK_BLOCK)

    @cached_property
    def rows(self) -> np.ndarray:
        """(count, 3)."""
        found = [piece for segment in self.segments for piece in self._pieces(segment)]
        return _table(found, ROW)

    @cached_property
    def items(self) -> np.ndarray:
        """(count, 4)."""
        found = [
            (token, tokens, start, slot)
            for segment, rank in zip(self.segments, self.ranks, strict=True)
            for token, tokens, slot in self._pieces(segment)
            for start in range(0, rank, RANK_BLOCK)
        ]
        return _table(found, ITEM)

    @cached_property
    def owners(self) -> np.ndarray:
        """(count, 4)."""
        found: list[Numbers] = []
        first = 0
        for slot, of_one in groupby(zip(self.segments, self.ranks, strict=True), key=lambda pair: pair[0].slot):
            mine = list(of_one)
            end = first + sum(-(-segment.tokens // self.token_block) for segment, _ in mine)
            found += [(start, slot, first, end) for start in range(0, mine[0][1], RANK_BLOCK)]
            first = end
        return _table(found, OWNER)

    def _pieces(self, segment: Segment) -> list[tuple[int, int, int]]:
        end = segment.token + segment.tokens
        starts = range(segment.token, end, self.token_block)
        return [(token, min(self.token_block, end - token), segment.slot) for token in starts]


@dataclass(frozen=True)
class DeviceTables:
    """The pieces on the device; what fills their places up to the capacity has no tokens."""

    items: Tensor
    rows: Tensor
    rank: int
    """Rank rows for which there is room between two parts of `s`."""
    token_block: int
    work: WorkTables | None = None
    """None for tables that are filled anew."""

    @classmethod
    def of(cls, work: WorkTables, device: torch.device) -> Self:
        """On the device, in one copy."""
        both = torch.from_numpy(np.concatenate((work.items.ravel(), work.rows.ravel()))).to(device, non_blocking=True)
        items, rows = both.split((work.items.size, work.rows.size))
        return cls(items.view(-1, ITEM), rows.view(-1, ROW), work.rank, work.token_block, work)

    @cached_property
    def owners(self) -> Tensor:
        """The third table, which only the backward needs."""
        assert self.work is not None, "a recorded graph has no backward"
        return torch.from_numpy(self.work.owners).to(self.items.device, non_blocking=True)

    def splits(self, parts: int, width: int) -> int:
        """Into how many sums a sum over `width` columns is split; by capacity, so that a recorded graph keeps it."""
        wanted = -(-_PROGRAMS // max(1, len(self.items) * parts))
        most = max(1, min(_MOST_SPLITS, width // _LEAST_WIDTH))
        return 1 << (min(wanted, most).bit_length() - 1)


class StepTables:
    """A step's pieces on the device, made once for all groups of linears at which its adapters have the same ranks."""

    def __init__(self, segments: Segments, device: torch.device) -> None:
        self._segments = segments.all
        self._slots_N = np.array([segment.slot for segment in segments.all], dtype=np.int64)
        self._device = device
        self._made: dict[bytes, DeviceTables] = {}

    def at(self, ranks_SP: np.ndarray) -> DeviceTables:
        """Where slots' parts have these ranks; without pieces where the step's adapters leave all parts alone."""
        ranks_N = ranks_SP[self._slots_N].max(1)
        key = ranks_N.tobytes()
        tables = self._made.get(key)
        if tables is None:
            work = WorkTables.of(self._segments, ranks_N.tolist())
            tables = self._made[key] = DeviceTables.of(work, self._device)
        return tables


class FixedTables:
    """Tables in one place on the device for a recorded graph, filled anew before each replay; for decoding."""

    def __init__(self, items: int, rank: int, device: torch.device) -> None:
        """Room for so many items, and for adapters of this rank."""
        self._room = items
        self._host = torch.zeros(items * (ITEM + ROW), dtype=torch.int32, pin_memory=device.type == "cuda")
        self._device = torch.zeros_like(self._host, device=device)
        self._copied = torch.cuda.Event() if device.type == "cuda" else None
        both = self._device.split((items * ITEM, items * ROW))
        self.tables = DeviceTables(both[0].view(-1, ITEM), both[1].view(-1, ROW), rank, SHORT_BLOCK)

    def fits(self, work: WorkTables) -> bool:
        """Whether this step's pieces have room."""
        return len(work.items) <= self._room and work.rank <= self.tables.rank

    def fill(self, work: WorkTables) -> None:
        """Put another step's pieces in, on the current stream; those of the one before are gone."""
        assert self.fits(work)
        assert work.token_block == self.tables.token_block
        if self._copied is not None:
            self._copied.synchronize()  # the copy before must have read the host's buffer before it is written again
        self._host.zero_()
        numbers = self._host.numpy()
        numbers[: work.items.size] = work.items.ravel()
        numbers[self._room * ITEM :][: work.rows.size] = work.rows.ravel()
        self._device.copy_(self._host, non_blocking=True)
        if self._copied is not None:
            self._copied.record()


@dataclass(frozen=True, slots=True)
class GroupTables:
    """How the columns of one group of linears are cut; tensors of int32 on the device.

    A part is (first column of x, columns); a tile is (first column of y or x, columns, first part, parts, first column of
    w, all columns of w).
    """

    inputs: Tensor
    """Parts as A has them: all read the same columns of x."""
    outputs: Tensor
    """Parts as B has them."""
    output_tiles: Tensor
    """Of the fused output, none across the border of two parts."""
    input_tiles: Tensor
    """Of the input, each summed over all parts."""
    a_tiles: Tensor
    """Of A's gradient, part by part."""
    align: int
    """Divides all columns, counts of columns, and places in the bank."""


@cache
def group_tables(in_features: int, out_features: tuple[int, ...], block: int, device: torch.device) -> GroupTables:
    """The tables of all groups of these sizes."""
    starts = np.cumsum([0, *out_features]).tolist()
    count = len(out_features)
    outputs = [
        (starts[part] + column, width, part, 1, column, columns)
        for part, columns in enumerate(out_features)
        for column, width in _cut(columns, block)
    ]
    cut = _cut(in_features, block)
    inputs = [(column, width, 0, count, column, in_features) for column, width in cut]
    of_a = [(column, width, part, 1, column, in_features) for part in range(count) for column, width in cut]
    of_x = [(0, in_features)] * count
    of_y = list(zip(starts, out_features, strict=False))

    def moved(rows: Sequence[Numbers], width: int) -> Tensor:
        return torch.from_numpy(_table(rows, width)).to(device)

    return GroupTables(
        inputs=moved(of_x, PART),
        outputs=moved(of_y, PART),
        output_tiles=moved(outputs, TILE),
        input_tiles=moved(inputs, TILE),
        a_tiles=moved(of_a, TILE),
        align=math.gcd(ALIGNMENT, in_features, *out_features),
    )


def _cut(columns: int, block: int) -> list[tuple[int, int]]:
    return [(start, min(block, columns - start)) for start in range(0, columns, block)]


def _padded(count: int, block: int) -> int:
    return -(-count // block) * block


def _table(rows: Sequence[Numbers], width: int) -> np.ndarray:
    return np.array(rows, dtype=np.int32).reshape(-1, width)
