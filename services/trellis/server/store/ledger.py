"""The ledger in the database, and what is derived from it in the same transaction."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from prometheus_client import Counter as Metric
from sqlalchemy import Row, Select, Table, delete, func, select

from trellis.server.app.ledger_reading import LedgerRange, StoredBytes, Sums, UsageGroup
from trellis.server.app.ports import Page
from trellis.server.domain.derived import Derived, derive
from trellis.server.domain.ledger import LedgerEntry, NegativeHoldError, UsageSum
from trellis.server.domain.tuning_job import ACTIVE
from trellis.server.store import tables
from trellis.server.store.pages import Keyset
from trellis.server.store.rows import named
from trellis.server.store.stored_bytes import stored_bytes
from trellis.server.store.transaction import Rows, Transaction
from trellis.server.store.usage_sums import by_tenant, derived, page_of_sums

_e = tables.ledger_entries.c
_h = tables.holds.c
_d = tables.usage_days.c
_j = tables.tuning_jobs.c
_IN_ORDER = Keyset((_e.time, _e.sequence))
_METERING_LOCK = 0x7472_0005
_ENTRIES = Metric("trellis_ledger_entries_total", "Entries that were written into the ledger.", ["kind", "meter"])
_QUANTITY = Metric(
    "trellis_ledger_quantity_total", "What was held, settled and released, in the meter's units.", ["kind", "meter"]
)
_STORAGE_KEYS = ("storage2", "storage3")
"""What keys of storage begin with, with the year's first digit, and what comes after all of them in any collation."""


class SqlLedger(Rows):
    """See ports.Ledger.

    Every transaction writes in one order, the entries by key and then each table's rows by primary key, so that two that
    touch the same rows wait for each other in turn. Rows of a job are written by whoever has locked the job.
    """

    def __init__(self, transaction: Transaction) -> None:
        super().__init__(transaction)
        self._written: list[LedgerEntry] = []
        """By this transaction."""

    def committed(self) -> None:
        """What was written has become true: count it."""
        entries: Counter[tuple[str, str]] = Counter()
        quantities: Counter[tuple[str, str]] = Counter()
        for entry in self._written:
            labels = (entry.kind.value, entry.meter.value)
            entries[labels] += 1
            quantities[labels] += entry.quantity
        for labels, count in entries.items():
            _ENTRIES.labels(*labels).inc(count)
            _QUANTITY.labels(*labels).inc(quantities[labels])
        self._written.clear()

    async def append(self, entries: Sequence[LedgerEntry]) -> Sequence[LedgerEntry]:
        assert all(entry.quantity > 0 for entry in entries), "an entry says something"
        single = {(entry.tenant, entry.key): entry for entry in reversed(entries)}
        rows = [_row(single[key]) for key in sorted(single)]
        added = await self._transaction.add_new(tables.ledger_entries, rows, ["tenant", "key"])
        fresh = [single[row.tenant, row.key] for row in added]
        await self._add(derive(fresh))
        self._written += fresh
        return fresh

    async def held(self, job_uid: str) -> Sums:
        statement = select(_h.meter, _h.quantity).where(_h.job_uid == job_uid)
        return {row.meter: row.quantity for row in await self._transaction.rows(statement)}

    async def held_by_active(self, tenants: Collection[str]) -> Mapping[str, Sums]:
        joined = tables.holds.join(tables.tuning_jobs, _j.uid == _h.job_uid)
        total = func.sum(_h.quantity).label("quantity")
        statement = select(_h.tenant, _h.meter, total).select_from(joined).group_by(_h.tenant, _h.meter)
        statement = statement.where(_h.tenant.in_(tenants), _j.state.in_(sorted(ACTIVE)))
        return by_tenant(await self._transaction.rows(statement))

    async def settled_since(self, tenants: Collection[str], start: datetime) -> Mapping[str, Sums]:
        total = func.sum(_d.quantity).label("quantity")
        statement = select(_d.tenant, _d.meter, total).where(_d.tenant.in_(tenants), _d.day >= start)
        return by_tenant(await self._transaction.rows(statement.group_by(_d.tenant, _d.meter)))

    async def entries(self, which: LedgerRange, limit: int, cursor: str | None) -> Page[LedgerEntry]:
        return await self._transaction.page(_IN_ORDER, _within(which), limit, cursor, _read)

    async def sums(
        self, which: LedgerRange, groups: Collection[UsageGroup], limit: int, cursor: str | None
    ) -> Page[UsageSum]:
        return await page_of_sums(self._transaction, which, groups, limit, cursor)

    async def derived(self, tenant: str, start: datetime | None = None, end: datetime | None = None) -> Derived:
        return await derived(self._transaction, tenant, start, end)

    async def metered_until(self) -> datetime | None:
        first, beyond = _STORAGE_KEYS
        newest = (
            select(func.max(_e.key))
            .where(_e.tenant == tables.tenants.c.tenant_id, _e.key >= first, _e.key < beyond)
            .scalar_subquery()
        )
        [row] = await self._transaction.rows(select(func.max(newest).label("key")).select_from(tables.tenants))
        return datetime.fromisoformat(row.key.removeprefix("storage").split("/")[0]) if row.key else None

    async def stored_bytes(self, before: datetime) -> Mapping[str, StoredBytes]:
        return await stored_bytes(self._transaction, before)

    async def lock_metering(self) -> None:
        await self._transaction.lock(_METERING_LOCK)

    async def _add(self, more: Derived) -> None:
        await self._transaction.add_up(tables.usage_hours, _summed(tables.usage_hours, more.hours))
        await self._transaction.add_up(tables.usage_days, _summed(tables.usage_days, more.days))
        held = await self._transaction.add_up(tables.holds, _summed(tables.holds, more.holds))
        uids = sorted({uid for uid, _, _ in more.holds})
        if any(quantity < 0 for quantity in held):
            raise NegativeHoldError(f"More would be settled or released than is held for {', '.join(uids)}.")
        if 0 in held:
            await self._transaction.change(delete(tables.holds).where(_h.job_uid.in_(uids), _h.quantity == 0))


def _summed(table: Table, sums: Mapping[Any, int]) -> Sequence[Mapping[str, Any]]:
    """Rows in the order of their keys; of each sum's key and quantity, the values in the order of the table's columns."""
    names = [column.name for column in table.columns]
    return [dict(zip(names, (*key, sums[key]), strict=True)) for key in sorted(sums)]


def _row(entry: LedgerEntry) -> dict[str, Any]:
    values = asdict(entry)
    del values["sequence"]
    return values


def _read(row: Row[Any]) -> LedgerEntry:
    return LedgerEntry(**named(row))


def _within(which: LedgerRange) -> Select[Any]:
    statement = select(tables.ledger_entries)
    asked = {_e.tenant: which.tenant, _e.resource: which.resource or None}
    for column, value in asked.items():
        if value is not None:
            statement = statement.where(column == value)
    if which.start is not None:
        statement = statement.where(_e.time >= which.start)
    return statement if which.end is None else statement.where(_e.time < which.end)
