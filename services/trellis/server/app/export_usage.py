"""What the runs of an export took, settled when it ends in whatever way."""

from collections.abc import Sequence
from datetime import datetime

from trellis.server.app.job_needs import JobNeeds
from trellis.server.domain.export import Export
from trellis.server.domain.ledger import EntryKind, LedgerEntry, Meter
from trellis.server.domain.prices import Prices
from trellis.server.scheduler.capacity import Resources


def export_needs(needs: JobNeeds) -> Resources:
    """What the run of an export reserves: it reads, adds and writes, for which one CPU is enough."""
    return Resources(min(1.0, needs.worker.cpus))


def measured_export(export: Export, end: datetime, needs: JobNeeds, prices: Prices) -> Sequence[LedgerEntry]:
    """From the beginning of its first run on the cluster until `end`; nothing for one that never ran, and on platforms with
    GPUs, where an export takes none.
    """
    if export.start_time is None:
        return []
    meter = Meter.ACCELERATOR_MILLISECONDS
    quantity = round((end - export.start_time).total_seconds() * needs.accelerators(export_needs(needs)) * 1000)
    if quantity <= 0:
        return []
    return [
        LedgerEntry(
            export.tenant,
            f"{export.uid}-seconds",
            EntryKind.SETTLE,
            meter,
            quantity,
            end,
            resource=export.name,
            base_model=export.base_model,
            price_nanos=prices.of(meter, export.base_model),
        )
    ]
