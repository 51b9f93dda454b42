"""Sums of what was settled, from the rows by the hour and day."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, func, select, type_coerce

from trellis.server.app.ledger_reading import LedgerRange, Sums, UsageGroup
from trellis.server.app.ports import Page
from trellis.server.domain.derived import Derived
from trellis.server.domain.ledger import Meter, UsageSum
from trellis.server.store import tables
from trellis.server.store.columns import Words
from trellis.server.store.pages import Keyset
from trellis.server.store.rows import named
from trellis.server.store.transaction import Transaction

_u = tables.usage_hours.c
_d = tables.usage_days.c
_h = tables.holds.c
_COLUMNS: Final[Mapping[UsageGroup, Any]] = {
    UsageGroup.TENANT: _u.tenant,
    UsageGroup.TUNING_JOB: _u.resource,
    UsageGroup.ADAPTER: _u.adapter,
    UsageGroup.BASE_MODEL: _u.base_model,
}


def by_tenant(rows: Iterable[Row[Any]]) -> Mapping[str, Sums]:
    """Of rows of tenant, meter and quantity: each tenant's sums; databases answer them as decimals."""
    sums: dict[str, dict[Meter, int]] = defaultdict(dict)
    for row in rows:
        sums[row.tenant][row.meter] = int(row.quantity)
    return sums


async def page_of_sums(
    transaction: Transaction, which: LedgerRange, groups: Collection[UsageGroup], limit: int, cursor: str | None
) -> Page[UsageSum]:
    """See ports.Ledger.sums."""
    grouped: list[ColumnElement[Any]] = [column for group, column in _COLUMNS.items() if group in groups]
    time = _time_of(transaction, groups)
    keys = [*([time.label("time")] if time is not None else []), *grouped]
    keys += [type_coerce(_u.meter, Words).label("meter"), _u.price_nanos]
    summed = _in_hours(select(*keys, func.sum(_u.quantity).label("quantity")), which.tenant, which.start, which.end)
    sums = summed.group_by(*keys).subquery()
    keyset = Keyset(tuple(sums.c[column.name] for column in keys))
    return await transaction.page(keyset, select(sums), limit, cursor, _read)


async def derived(transaction: Transaction, tenant: str, start: datetime | None, end: datetime | None) -> Derived:
    """See ports.Ledger.derived."""
    hours = await transaction.rows(_in_hours(select(tables.usage_hours), tenant, start, end))
    days = await transaction.rows(select(tables.usage_days).where(_d.tenant == tenant))
    holds = await transaction.rows(select(tables.holds).where(_h.tenant == tenant))
    return Derived(_by_key(hours), _by_key(days), _by_key(holds))


def _by_key(rows: Iterable[Row[Any]]) -> dict[Any, int]:
    return {tuple(row)[:-1]: row.quantity for row in rows}


def _time_of(transaction: Transaction, groups: Collection[UsageGroup]) -> ColumnElement[Any] | None:
    if UsageGroup.HOUR in groups:
        return _u.hour
    return transaction.day_of(_u.hour) if UsageGroup.DAY in groups else None


def _in_hours(statement: Select[Any], tenant: str | None, start: datetime | None, end: datetime | None) -> Select[Any]:
    if tenant is not None:
        statement = statement.where(_u.tenant == tenant)
    if start is not None:
        statement = statement.where(_u.hour >= start)
    return statement if end is None else statement.where(_u.hour < end)


def _read(row: Row[Any]) -> UsageSum:
    values = named(row)
    return UsageSum(**{**values, "meter": Meter[row.meter], "quantity": int(row.quantity)})
