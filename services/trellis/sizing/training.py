"""A shared trainer: the tenants that it holds at once."""

from dataclasses import dataclass
from typing import Final

from trellis.sizing.accelerator import Accelerator
from trellis.sizing.serving import RUNTIME_BYTES, WEIGHT_BYTES
from trellis.sizing.shape import ModelShape

BANK_SHARE: Final = 0.4
"""Of what is free beside the base: weights, gradients and moments of all adapters (trellis_jobs.shared.memory)."""
STATE_BYTES: Final = 16
"""A trained number's weight, gradient and two moments, in float32."""
RESIDENT_BYTES: Final = 18
"""Of a resident job, a number that it trains: those 16, and up to 2 for what lies beside them (docs/benchmarks/training.md)."""


@dataclass(frozen=True, slots=True)
class TrainerSize:
    """A trainer of one worker on one GPU, with jobs of one rank on the same linears."""

    shape: ModelShape
    accelerator: Accelerator
    rank: int
    targets: tuple[str, ...] = ()
    """Linears that the jobs train; all where none is named."""

    @property
    def trained(self) -> int:
        """Numbers that a job trains."""
        return self.shape.lora_parameters(self.rank, self.targets)

    @property
    def job_bytes(self) -> int:
        """What a resident job takes."""
        return RESIDENT_BYTES * self.trained

    @property
    def free_bytes(self) -> float:
        """Memory beside the base and the runtime; negative where the base does not fit."""
        return self.accelerator.memory - RUNTIME_BYTES - WEIGHT_BYTES * self.shape.parameters

    @property
    def rank_rows(self) -> int:
        """Rank rows of all linears that there is memory for."""
        return max(0, int(self.free_bytes * BANK_SHARE) // (STATE_BYTES * self.shape.linear_values))

    @property
    def tenants(self) -> int:
        """Jobs that have room at once; TRELLIS_TRAINER_MAX_JOBS must allow them."""
        left = self.rank_rows - self._rows_of_the_last
        return 0 if left < 0 else left * self.shape.linear_values // self.trained + 1

    @property
    def rows_of_tenants(self) -> int:
        """TRELLIS_TRAINER_RANK_ROWS for so many jobs."""
        return self._rows_of_the_last - (-(self.tenants - 1) * self.trained // self.shape.linear_values)

    @property
    def _rows_of_the_last(self) -> int:
        """Jobs take their own numbers, but the server hears of whole rows: it gives none before so many are left."""
        return -(-self.trained // self.shape.linear_values)

    @property
    def flops_per_token(self) -> float:
        """Of a forward and a backward through a frozen base with an adapter: 4P (1 + 1.5 r S / P)."""
        return 4.0 * self.shape.read_parameters + 6.0 * self.trained
