"""`trellis usage …`."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from trellis.cli.commands import group
from trellis.cli.moment import Moment
from trellis.cli.output import cell, print_fields, print_json, print_many, print_table, said
from trellis.cli.state import State
from trellis.cli.usage_check import StatementCheck
from trellis.cli.usage_view import money, price, quantity, what
from trellis.client.types import LedgerEntry, Statement, UsageGroup, UsageRow

_GROUPS = {
    "tenant": UsageGroup.TENANT,
    "job": UsageGroup.TUNING_JOB,
    "adapter": UsageGroup.ADAPTER,
    "base": UsageGroup.BASE_MODEL,
    "hour": UsageGroup.HOUR,
    "day": UsageGroup.DAY,
}
_COLUMNS = {
    UsageGroup.HOUR: "time",
    UsageGroup.DAY: "time",
    UsageGroup.TENANT: "tenant",
    UsageGroup.TUNING_JOB: "tuning_job",
    UsageGroup.ADAPTER: "adapter",
    UsageGroup.BASE_MODEL: "base_model",
}
_SETTLED = timedelta(minutes=1)
"""So long ago everything is written that was ever going to be."""


@group("usage")
def usage() -> None:
    """What was used, what it costs, and the ledger."""


def _times(command: Callable[..., Any]) -> Callable[..., Any]:
    since = click.option("--since", type=Moment(), help="From this time on.  [default: the beginning of the month]")
    until = click.option("--until", type=Moment(), help="Before this time.  [default: now]")
    return since(until(command))


_all = click.option("--all", "everything", is_flag=True, help="Of all tenants; for admins.")


@usage.command("show")
@click.option("--by", multiple=True, type=click.Choice(list(_GROUPS)), help="Sum by this; may be given several times.")
@_times
@_all
@click.pass_obj
def show(state: State, by: Sequence[str], since: datetime | None, until: datetime | None, everything: bool) -> None:
    """Show what was used, in whole hours, and what it costs."""
    groups = [_GROUPS[name] for name in by]
    rows = state.client.usage.query(
        "-" if everything else None, start_time=since, end_time=until, group_by=groups, page_size=1000
    )
    if state.json:
        print_json(list(rows))
        return
    columns = list(dict.fromkeys(column for group, column in _COLUMNS.items() if group in groups))
    head = [*(column.replace("_", " ").upper() for column in columns), "WHAT", "USED", "PRICE", "AMOUNT"]
    print_table(head, [[*(cell(getattr(row, column)) for column in columns), *_sum(row)] for row in rows])


def _sum(row: UsageRow) -> list[str]:
    return [
        what(row.meter),
        quantity(row.meter, row.quantity),
        price(row.price_nanos, row.price_units, row.currency),
        money(row.amount_nanos, row.currency),
    ]


@usage.command("ledger")
@click.option("--job", default="", help="Only for this tuning job or export.")
@_times
@_all
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="At most so many.")
@click.pass_obj
def ledger(
    state: State, job: str, since: datetime | None, until: datetime | None, everything: bool, limit: int
) -> None:
    """List the ledger's entries, the oldest first, from the beginning without --since."""
    entries = state.client.usage.entries(
        "-" if everything else None, start_time=since, end_time=until, tuning_job=job, page_size=min(limit, 1000)
    )
    columns = ("sequence", "time", "tenant", "kind", "meter", "quantity", "tuning_job", "adapter", "base_model", "key")
    print_many(_first(entries, limit), columns, as_json=state.json)


def _first(entries: Iterator[LedgerEntry], count: int) -> Iterator[LedgerEntry]:
    for _, entry in zip(range(count), entries, strict=False):
        yield entry


@usage.command("statement")
@click.argument("tenant", required=False)
@_times
@click.pass_obj
def statement(state: State, tenant: str | None, since: datetime | None, until: datetime | None) -> None:
    """Show what a tenant, your own without TENANT, owes for a time."""
    found = state.client.usage.statement(tenant, start_time=since, end_time=until)
    if state.json:
        print_json(found)
        return
    print_fields(
        {
            "tenant": found.tenant,
            "from": f"{found.start_time:%Y-%m-%d %H:%M:%S} UTC",
            "until": f"{found.end_time:%Y-%m-%d %H:%M:%S} UTC",
            "amount": money(found.amount_nanos, found.currency),
            "entries": f"{found.entry_count:,}",
            "sha256": found.entries_sha256,
            "sums agree": "yes" if found.sums_agree else "no",
        }
    )
    print_table(("WHAT", "USED", "PRICE", "AMOUNT"), _lines(found))


def _lines(found: Statement) -> list[list[str]]:
    return [
        [
            what(line.meter),
            quantity(line.meter, line.quantity),
            price(line.price_nanos, line.price_units, found.currency),
            money(line.amount_nanos, found.currency),
        ]
        for line in found.lines
    ]


@usage.command("verify")
@click.argument("tenant", required=False)
@_times
@click.pass_context
def verify(context: click.Context, tenant: str | None, since: datetime | None, until: datetime | None) -> None:
    """Compute a statement anew from the ledger's entries, and compare it with what the server says.

    Ends a minute ago without --until, as of the last seconds entries may still come. Exits with 1 where they differ.
    """
    state: State = context.obj
    end = until or datetime.now(UTC) - _SETTLED
    found = state.client.usage.statement(tenant, start_time=since, end_time=end)
    check = StatementCheck()
    check.read(
        state.client.usage.entries(found.tenant, start_time=found.start_time, end_time=found.end_time, page_size=1000)
    )
    differences = check.differences(found)
    if state.json:
        print_json({"agrees": not differences, "differences": differences, "statement": found})
    for difference in differences:
        said(difference, as_json=state.json)
    if differences:
        context.exit(1)
    said(
        f"The statement of {found.tenant} agrees with its {check.count:,} entries, to the last unit.",
        as_json=state.json,
    )
