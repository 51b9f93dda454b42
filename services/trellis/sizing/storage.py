"""What a job leaves behind: objects in the store, rows in the database."""

from dataclasses import dataclass
from typing import Final

from trellis.sizing.shape import ModelShape

STORED_BYTES: Final = 4
"""Adapters are handed in, in float32."""
CHECKPOINT_BYTES: Final = 12
"""A trained number in a checkpoint: weight and two moments, in float32."""
KEPT_CHECKPOINTS: Final = 3
"""The last two and the best; pinned ones come on top (trellis.server.domain.retention)."""
MAX_POINTS: Final = 2000
"""Steps of which metrics are kept, however long a job is (trellis_jobs.shared.tenant)."""
METRICS: Final = 4
"""Names a step: loss, learning rate, gradient's norm, tokens a second."""
# Bytes a row on PostgreSQL 15 with its indexes, of tables that were filled by INSERTs: pg_total_relation_size / rows.
METRIC_ROW: Final = 265
EVENT_ROW: Final = 292
LEDGER_ROW: Final = 660
AUDIT_ROW: Final = 500
JOB_ROWS: Final = 6_000
"""The job itself with its spec, attempts, adapter and checkpoints; an estimate."""


@dataclass(frozen=True, slots=True)
class JobStorage:
    """One LoRA job: so many steps over a dataset of so many bytes."""

    shape: ModelShape
    rank: int
    steps: int
    dataset_bytes: int
    attempts: int = 1
    targets: tuple[str, ...] = ()
    """Linears that the adapter changes; all where none is named."""

    @property
    def adapter_bytes(self) -> int:
        """The adapter in the store."""
        return STORED_BYTES * self.shape.lora_parameters(self.rank, self.targets)

    @property
    def checkpoints_bytes(self) -> int:
        """The checkpoints that are kept, none of them pinned."""
        return KEPT_CHECKPOINTS * CHECKPOINT_BYTES * self.shape.lora_parameters(self.rank, self.targets)

    @property
    def store_bytes(self) -> int:
        """All of it in the object store; a dataset counts once, however many jobs read it."""
        return self.dataset_bytes + self.adapter_bytes + self.checkpoints_bytes

    @property
    def database_bytes(self) -> int:
        """Rows of the job: metrics, some thirty events, nine entries of the ledger, three of the audit trail."""
        metrics = min(self.steps, MAX_POINTS) * METRICS * METRIC_ROW
        return metrics + 30 * EVENT_ROW + (6 + 3 * self.attempts) * LEDGER_ROW + 3 * AUDIT_ROW + JOB_ROWS
