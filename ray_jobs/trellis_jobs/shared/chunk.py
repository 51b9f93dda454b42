"""What the fused model computes: chunks, each of one job, side by side in one pass."""

from dataclasses import dataclass

from trellis_jobs.examples import Row


@dataclass(frozen=True, slots=True)
class Chunk:
    """Sequences of one job that are always computed together and in this order, whatever else is in the pass.

    What a chunk gives, forward and backward, depends on nothing but the chunk and its adapter's weights, bit for bit
    (float32 on a CPU). So a batch must be cut into chunks by a rule that looks at nothing but the batch itself.
    """

    rows: tuple[Row, ...]
    slot: int | None
    """The job's adapter in the bank; None for the base alone."""
    dropout: float = 0.0
    """Before the adapter."""
    seed: int = 0
    """Of its dropout: made of the job's seed, the step and the chunk's number in the batch."""

    @property
    def tokens(self) -> int:
        """Positions that are computed; the last token of a row predicts nothing."""
        return sum(row.ids_T.numel() - 1 for row in self.rows)
