"""The rows of a pass: all chunks' sequences one after another, without padding between them.

Shapes: T rows of the pass, a multiple of 16, N trained positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from trellis_jobs.loss import ROW_MULTIPLE, TokenLosses
from trellis_jobs.shared.chunk import Chunk


@dataclass(frozen=True, slots=True)
class Packed:
    """Chunks laid out for one forward; what fills the rows up to a multiple of 16 belongs to nobody."""

    ids_1T: Tensor
    positions_1T: Tensor
    """Restarting with each sequence."""
    lengths: tuple[int, ...]
    """Rows of each sequence, in order; the padding is not among them."""
    runs: tuple[tuple[int | None, int], ...]
    """Slot and rows of each chunk."""
    places_N: Tensor
    targets_N: Tensor
    weights_N: Tensor
    rows_N: Tensor
    """The number of the sequence within its chunk."""
    trained: tuple[int, ...]
    """Trained positions of each chunk."""

    @classmethod
    def of(cls, chunks: Sequence[Chunk], device: torch.device) -> Self:
        """Lay the chunks out; a sequence's last token is not computed, it predicts nothing."""
        sequences = [row for chunk in chunks for row in chunk.rows]
        lengths = tuple(row.ids_T.numel() - 1 for row in sequences)
        missing = -sum(lengths) % ROW_MULTIPLE
        ids_T = torch.cat([row.ids_T[:-1] for row in sequences] + [torch.zeros(missing, dtype=torch.int64)])
        positions_T = torch.cat([torch.arange(length) for length in (*lengths, missing)])
        weights_T = torch.cat([row.weights_T[1:] for row in sequences])
        targets_T = torch.cat([row.ids_T[1:] for row in sequences])
        numbers = torch.cat([torch.arange(len(chunk.rows)) for chunk in chunks])
        rows_T = numbers.repeat_interleave(torch.tensor(lengths))
        places_N = (weights_T > 0).nonzero()[:, 0]
        ends = torch.tensor([chunk.tokens for chunk in chunks]).cumsum(0)
        trained = torch.searchsorted(places_N, ends).diff(prepend=torch.zeros(1, dtype=torch.int64))
        return cls(
            ids_T.unsqueeze(0).to(device),
            positions_T.unsqueeze(0).to(device),
            tuple(length for length in lengths if length),
            tuple((chunk.slot, chunk.tokens) for chunk in chunks),
            places_N.to(device),
            targets_T[places_N].to(device),
            weights_T[places_N].to(device),
            rows_T[places_N].to(device),
            tuple(trained.tolist()),
        )

    def parted(self, losses_N: Tensor, correct_N: Tensor) -> list[TokenLosses]:
        """Each chunk's own."""
        columns = (losses_N, correct_N, self.weights_N, self.rows_N)
        return [TokenLosses(*parts) for parts in zip(*(column.split(self.trained) for column in columns), strict=True)]
