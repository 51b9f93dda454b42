"""What one step of the engine shows the model: the sequences' pieces, laid in one row of tokens.

Tensors' shapes: T tokens, B pieces, M blocks of the longest block table, N rows whose logits are wanted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Self

import numpy as np
import torch
from torch import Tensor

from trellis.native.attention import StepTable


@dataclass(slots=True)
class Piece:
    """One sequence's share of a step: a chunk of its prompt, or its last token."""

    token_ids: Sequence[int]
    """To be run now; at least one."""
    position: int
    """Tokens of the sequence that are in the KV cache already."""
    blocks: Sequence[int]
    """Its block table; covers `position + len(token_ids)` tokens."""
    slot: int | None
    """Of the adapter bank; None for the base alone."""
    wants_logits: bool
    """Whether the logits after the last of the tokens are wanted."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where one piece lies in the row of tokens."""

    start: int
    count: int
    position: int

    @property
    def stop(self) -> int:
        """One past its last row."""
        return self.start + self.count

    @property
    def length(self) -> int:
        """Tokens of the sequence in the KV cache after the step."""
        return self.position + self.count


@dataclass(frozen=True)
class Layout:
    """What attention must know of a step, the same for every layer."""

    spans: tuple[Span, ...]
    starts_B1: Tensor
    """int32; the first row of each piece, and the count of all rows."""
    positions_B: Tensor
    """int32; tokens of each piece's sequence that were in the KV cache before."""
    blocks_BM: Tensor
    """int32; the block tables, 0 where there is no block."""
    rows_T: Tensor
    """int64; where each token's keys and values go: block · block_tokens + offset."""
    block_tokens: int

    @cached_property
    def most_new(self) -> int:
        """Tokens of the longest piece; 1 when all decode."""
        return max(span.count for span in self.spans)

    @cached_property
    def most_kept(self) -> int:
        """Tokens of the longest sequence after the step."""
        return max(span.length for span in self.spans)

    @cached_property
    def write_blocks(self) -> Tensor:
        """The block into which each token's keys and values go."""
        return self.rows_T // self.block_tokens

    @cached_property
    def write_offsets(self) -> Tensor:
        """The place of each token's keys and values in that block."""
        return self.rows_T % self.block_tokens

    @cached_property
    def native(self) -> StepTable:
        """The tables as the C++ kernels take them."""
        return StepTable(self.starts_B1, self.positions_B, self.blocks_BM, self.rows_T, self.block_tokens)

    @cached_property
    def block_lists(self) -> tuple[Tensor, ...]:
        """The block tables as int64 indices, one tensor a piece."""
        return tuple(self.blocks_BM.long().unbind(0))


@dataclass(frozen=True, slots=True)
class Batch:
    """A step's pieces as tensors; pieces of one bank slot are neighbours."""

    token_ids_T: Tensor
    positions_T: Tensor
    kept_N: Tensor
    """The rows whose logits are wanted, in the order in which the pieces were given."""
    runs: tuple[tuple[int | None, int], ...]
    """(slot, count of rows) of each piece, in the order of the rows."""
    layout: Layout

    @property
    def decodes(self) -> bool:
        """Whether each piece is one token whose logits are wanted."""
        return len(self.runs) == self.token_ids_T.shape[0] == self.kept_N.shape[0]

    @classmethod
    def of(cls, pieces: Sequence[Piece], block_tokens: int, device: torch.device) -> Self:
        """Lay the pieces out; those for the base alone come first."""
        order = sorted(range(len(pieces)), key=lambda index: -1 if (slot := pieces[index].slot) is None else slot)
        ordered = [pieces[index] for index in order]
        counts = np.array([len(piece.token_ids) for piece in ordered], dtype=np.int64)
        starts = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(counts)))
        last_rows = np.empty(len(order), dtype=np.int64)
        last_rows[order] = starts[1:] - 1
        layout, positions = _layout(ordered, counts, starts, block_tokens, device)
        token_ids = np.array([token for piece in ordered for token in piece.token_ids], dtype=np.int64)
        wanted = np.array([piece.wants_logits for piece in pieces], dtype=bool)
        return cls(
            torch.from_numpy(token_ids).to(device),
            torch.from_numpy(positions).to(device),
            torch.from_numpy(last_rows[wanted]).to(device),
            tuple((piece.slot, int(count)) for piece, count in zip(ordered, counts, strict=True)),
            layout,
        )


def _layout(
    pieces: Sequence[Piece], counts: np.ndarray, starts: np.ndarray, block_tokens: int, device: torch.device
) -> tuple[Layout, np.ndarray]:
    befores = np.array([piece.position for piece in pieces], dtype=np.int64)
    positions = np.repeat(befores - starts[:-1], counts) + np.arange(starts[-1])
    blocks = _block_tables(pieces, befores + counts, block_tokens)
    owners = np.repeat(np.arange(len(pieces)), counts)
    rows = blocks[owners, positions // block_tokens].astype(np.int64) * block_tokens + positions % block_tokens
    layout = Layout(
        tuple(Span(int(s), int(c), int(p)) for s, c, p in zip(starts, counts, befores, strict=False)),
        torch.from_numpy(starts.astype(np.int32)).to(device),
        torch.from_numpy(befores.astype(np.int32)).to(device),
        torch.from_numpy(blocks).to(device),
        torch.from_numpy(rows).to(device),
        block_tokens,
    )
    return layout, positions


def _block_tables(pieces: Sequence[Piece], lengths: np.ndarray, block_tokens: int) -> np.ndarray:
    """Only as many blocks of each as its tokens take: a sequence's table may be reserved far beyond."""
    used = -(-lengths // block_tokens)
    taken = [piece.blocks[:count] for piece, count in zip(pieces, used.tolist(), strict=True)]
    assert [len(row) for row in taken] == used.tolist(), "there are fewer blocks than the tokens take"
    blocks = np.zeros((len(pieces), int(used.max())), dtype=np.int32)
    blocks[np.arange(blocks.shape[1]) < used[:, None]] = np.fromiter(chain.from_iterable(taken), np.int32)
    return blocks
