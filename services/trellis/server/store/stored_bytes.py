"""How many bytes tenants keep."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import func, select

from trellis.server.app.ledger_reading import StoredBytes
from trellis.server.domain.export import ExportState
from trellis.server.store import tables
from trellis.server.store.transaction import Transaction

_v = tables.dataset_versions.c
_a = tables.adapters.c
_c = tables.checkpoints.c
_j = tables.tuning_jobs.c
_x = tables.exports.c


async def stored_bytes(transaction: Transaction, before: datetime) -> Mapping[str, StoredBytes]:
    """By tenant: what was made before this time and is there."""
    datasets = await _datasets(transaction, before)
    artifacts = await _adapters(transaction, before) + await _checkpoints(transaction, before)
    artifacts += await _exports(transaction, before)
    tenants = sorted({*datasets, *artifacts})
    return {tenant: StoredBytes(datasets[tenant], artifacts[tenant]) for tenant in tenants}


async def _datasets(transaction: Transaction, before: datetime) -> Counter[str]:
    total = func.sum(_v.size_bytes).label("total")
    statement = select(_v.tenant, total).where(_v.create_time < before).group_by(_v.tenant)
    return Counter({row.tenant: int(row.total) for row in await transaction.rows(statement)})


async def _adapters(transaction: Transaction, before: datetime) -> Counter[str]:
    total = func.sum(_a.size_bytes).label("total")
    statement = select(_a.tenant, total).where(_a.create_time < before).group_by(_a.tenant)
    return Counter({row.tenant: int(row.total) for row in await transaction.rows(statement)})


async def _checkpoints(transaction: Transaction, before: datetime) -> Counter[str]:
    total = func.sum(_c.size_bytes).label("total")
    joined = tables.checkpoints.join(tables.tuning_jobs, _j.uid == _c.job_uid)
    statement = select(_j.tenant, total).select_from(joined).where(_c.create_time < before).group_by(_j.tenant)
    return Counter({row.tenant: int(row.total) for row in await transaction.rows(statement)})


async def _exports(transaction: Transaction, before: datetime) -> Counter[str]:
    # Their files lie in one column; there are few, as they are large.
    statement = select(_x.tenant, _x.files).where(_x.state == ExportState.SUCCEEDED, _x.end_time < before)
    sizes: Counter[str] = Counter()
    for row in await transaction.rows(statement):
        sizes[row.tenant] += sum(file["size_bytes"] for file in row.files)
    return sizes
