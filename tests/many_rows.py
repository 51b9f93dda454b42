"""As many rows as an installation of some age has, made as copies of one each."""

import hashlib
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import Table, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tests.contract.store import samples
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.domain.adapter import AdapterShare, Alias
from trellis.server.domain.export import Export, ExportFormat, ExportState
from trellis.server.domain.tuning_job import Checkpoint, EventLevel, JobEvent, MetricPoint
from trellis.server.store import tables

Row = Mapping[str, Any]
UID = "uid-acme-1"
_BATCH = 2000


def _hash(text: str, number: int) -> str:
    return hashlib.sha256(f"{text} {number}".encode()).hexdigest()


def _later(row: Row, number: int) -> dict[str, Any]:
    return {"create_time": row["create_time"] + timedelta(seconds=number)}


_COPIES: dict[Table, Callable[[Row, int], dict[str, Any]]] = {
    tables.tenants: lambda row, n: {"tenant_id": f"tenant-{n:05}", **_later(row, n)},
    tables.api_keys: lambda row, n: {"key_id": f"key-{n:05}", "secret_hash": _hash("key", n), **_later(row, n)},
    tables.base_models: lambda row, n: {"base_model_id": f"base-{n:05}", "is_default": False, **_later(row, n)},
    tables.datasets: lambda row, n: {"dataset_id": f"data-{n:05}", **_later(row, n)},
    tables.dataset_versions: lambda row, n: {"sha256": _hash("version", n), **_later(row, n)},
    tables.tuning_jobs: lambda row, n: {"uid": f"uid-{n:05}", "job_id": f"job-{n:05}", **_later(row, n)},
    tables.job_events: lambda row, n: {"sequence": row["sequence"] + n},
    tables.job_metrics: lambda row, n: {"step": row["step"] + n},
    tables.checkpoints: lambda row, n: {"step": row["step"] + n},
    tables.adapters: lambda row, n: {
        "digest": (made := _hash("adapter", n)), "adapter_id": made[:12], **_later(row, n)
    },
    tables.aliases: lambda row, n: {"alias_id": f"alias-{n:05}"},
    tables.adapter_shares: lambda row, n: {"tenant": f"tenant-{n:05}", **_later(row, n)},
    tables.exports: lambda row, n: {"uid": f"export-uid-{n:05}", "export_id": f"export-{n:05}", **_later(row, n)},
    tables.audit_events: lambda row, n: {"sequence": None},
    tables.ledger_entries: lambda row, n: {"sequence": None, "key": f"copy-{n:05}"},
}  # fmt: skip
"""What is another in each copy. Tenants come first: shares refer to them."""


async def add_one_of_each(units: UnitOfWorkFactory) -> None:
    """What `samples.seed` with a job leaves out: a row of each kind to be copied."""
    export = Export(
        "acme", "export-1", "export-uid-1", "", "tenants/acme/adapters/a", "k", "baseModels/tiny",
        ExportFormat.SAFETENSORS, ExportState.SUCCEEDED, "k", "", samples.NOW, end_time=samples.NOW, cleaned_up=True,
    )  # fmt: skip
    async with units() as unit:
        await unit.tenants.add(samples.tenant("globex"))
        await unit.api_keys.add(samples.key())
        await unit.adapters.add(samples.adapter(1))
        await unit.adapters.put_alias(Alias("acme", "live", samples.digest(1), samples.NOW))
        await unit.adapters.put_share(AdapterShare("acme", samples.digest(1), "globex", samples.NOW))
        await unit.exports.add(export)
        await unit.jobs.add_metrics(UID, [MetricPoint(1, {"train_loss": 1.0}, samples.NOW)])
        await unit.jobs.add_checkpoint(UID, Checkpoint(1, 1, "k", 1, samples.NOW))
        job = await unit.jobs.get_by_uid(UID, for_update=True)
        assert job is not None
        await unit.jobs.save(job, [JobEvent(samples.NOW, EventLevel.INFO, "Hello.")])
        await unit.commit()


async def fill(engine: AsyncEngine, start: int, end: int) -> None:
    """Copies with numbers from `start` to before `end` of one row of each table."""
    async with engine.begin() as connection:
        for table in _COPIES:
            await copy(connection, table, start, end)


async def copy(connection: AsyncConnection, table: Table, start: int, end: int, **changes: Any) -> None:
    """Copies of the table's first row, if it has one, with numbers from `start` to before `end`."""
    row = (await connection.execute(select(table).limit(1))).mappings().first()
    if row is None:
        return
    for first in range(start, end, _BATCH):
        rows = [{**row, **_COPIES[table](row, n), **changes} for n in range(first, min(end, first + _BATCH))]
        plain = [{name: value for name, value in each.items() if (name, value) != ("sequence", None)} for each in rows]
        await connection.execute(insert(table), plain)
