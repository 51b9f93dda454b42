"""What tenants used, from the ledger."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from trellis.errors import InvalidArgument
from trellis.names import ALL_TENANTS, TenantName
from trellis.server.app.context import Context
from trellis.server.app.fields import Violations
from trellis.server.app.ledger_reading import LedgerRange, UsageGroup
from trellis.server.app.pages import Listed, PageQuery, read_page
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.tenants import present_tenant
from trellis.server.domain.derived import HourKey, derive, hour_of
from trellis.server.domain.ledger import LedgerEntry, UsageSum
from trellis.server.domain.quota import Period
from trellis.server.domain.statement import Statement, StatementSum

_PAGE: Final = 100
_PIECE: Final = 1000
"""Entries that are read at a time for a statement."""
_MAX_NAME: Final = 300
_HOUR: Final = timedelta(hours=1)
_LAST: Final = datetime.max.replace(tzinfo=UTC) - timedelta(days=1)
"""Before it there is room for another hour."""


@dataclass(frozen=True, slots=True)
class Span:
    """A time that is asked for: None for the beginning of the present month, and for now."""

    start: datetime | None = None
    end: datetime | None = None


async def query_usage(
    context: Context, parent: str, span: Span, groups: Collection[UsageGroup], query: PageQuery
) -> Listed[UsageSum]:
    """Sums of what was settled in whole hours, by meter, price and these groups."""
    start, end = _checked(context, span)
    which = LedgerRange(_tenant(parent), hour_of(start), None if span.end is None else hour_of(end))
    async with context.units(write=False) as unit:
        await _require(unit, which.tenant)
        # The beginning is part of the list: a page of the next month is not that of this one.
        scope = f"QueryUsage {parent} {which.start} {which.end} {sorted(set(groups))}"
        return await read_page(
            scope, query, lambda limit, cursor: unit.ledger.sums(which, groups, limit, cursor), default=_PAGE
        )


async def list_entries(
    context: Context, parent: str, span: Span, tuning_job: str, query: PageQuery
) -> Listed[LedgerEntry]:
    """The ledger's entries, by time and then sequence; `tuning_job` is the name of one, or of an export, or empty."""
    violations = Violations()
    violations.text(tuning_job, "tuning_job", _MAX_NAME)
    violations.raise_any()
    _in_order(span)
    which = LedgerRange(_tenant(parent), span.start, span.end, tuning_job)
    async with context.units(write=False) as unit:
        await _require(unit, which.tenant)
        scope = f"ListLedgerEntries {parent} {span.start} {span.end} {tuning_job}"
        return await read_page(
            scope, query, lambda limit, cursor: unit.ledger.entries(which, limit, cursor), default=_PAGE
        )


async def get_statement(context: Context, name: str, span: Span) -> Statement:
    """What the tenant owes for a time, computed anew from the entries, which are all read."""
    tenant = TenantName.parse(name).tenant
    start, end = _checked(context, span)
    hours = LedgerRange(tenant, hour_of(start), hour_of(end - timedelta(microseconds=1)) + _HOUR)
    total = StatementSum()
    sums: Counter[HourKey] = Counter()
    async with context.units(write=False) as unit:
        await present_tenant(unit, tenant)
        cursor: str | None = None
        while True:
            page = await unit.ledger.entries(hours, _PIECE, cursor)
            total.add(entry for entry in page.items if start <= entry.time < end)
            sums.update(derive(page.items).hours)
            cursor = page.next_cursor
            if cursor is None:
                break
        kept = await unit.ledger.derived(tenant, hours.start, hours.end)
    return total.statement(tenant, start, end, sums_agree=kept.hours == sums)


def _tenant(parent: str) -> str | None:
    return None if parent == ALL_TENANTS else TenantName.parse(parent, "parent").tenant


async def _require(unit: UnitOfWork, tenant: str | None) -> None:
    if tenant is not None:
        await present_tenant(unit, tenant)


def _checked(context: Context, span: Span) -> tuple[datetime, datetime]:
    """The time's beginning and end."""
    now = context.now()
    end = min(span.end or now, _LAST)
    filled = replace(span, start=span.start or Period.MONTH.start(end), end=end)
    _in_order(filled)
    assert filled.start is not None
    return filled.start, end


def _in_order(span: Span) -> None:
    if span.start is not None and span.end is not None and span.start >= span.end:
        message = f"{span.end:%Y-%m-%d %H:%M:%S} is not after {span.start:%Y-%m-%d %H:%M:%S}, where the time begins."
        raise InvalidArgument.for_field("end_time", message)
