"""`trellis audit …`."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import click

from trellis.cli.audit_file import AuditFile
from trellis.cli.commands import group
from trellis.cli.moment import Moment
from trellis.cli.output import print_json, print_many, said
from trellis.cli.state import State
from trellis.client.types import AuditEvent


@group("audit")
def audit() -> None:
    """Who did what to what."""


_platform = click.option("--platform", is_flag=True, help="What touched no tenant; for admins.")
_all = click.option("--all", "everything", is_flag=True, help="Of all tenants and the platform; for admins.")


def _parent(*, platform: bool, everything: bool) -> str | None:
    if platform and everything:
        raise click.UsageError("Give --platform or --all, not both.")
    return "platform" if platform else "-" if everything else None


@audit.command("list")
@_platform
@_all
@click.option("--since", type=Moment(), help="Only from this time on.")
@click.option("--until", type=Moment(), help="Only before this time.")
@click.option("--principal", default="", help="Only of this key, by its name, or of this other principal.")
@click.option("--method", default="", help="Only of this method, such as UpdateTenant.")
@click.option("--resource", default="", help="Only of this resource, and of what belongs to it.")
@click.option("--limit", type=click.IntRange(1), default=50, show_default=True, help="At most so many.")
@click.pass_obj
def list_(
    state: State,
    platform: bool,
    everything: bool,
    since: datetime | None,
    until: datetime | None,
    principal: str,
    method: str,
    resource: str,
    limit: int,
) -> None:
    """List what was done, and refused, newest first."""
    events = state.client.audit.list(
        _parent(platform=platform, everything=everything),
        start_time=since,
        end_time=until,
        principal=principal,
        method=method,
        resource=resource,
        page_size=min(limit, 1000),
    )
    columns = ("sequence", "time", "principal", "method", "resource", "status", "source", "before", "after")
    print_many(_first(events, limit), columns, as_json=state.json)


def _first(events: Iterator[AuditEvent], count: int) -> Iterator[AuditEvent]:
    for _, event in zip(range(count), events, strict=False):
        yield event


@audit.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_platform
@_all
@click.pass_obj
def export(state: State, file: Path, platform: bool, everything: bool) -> None:
    """Append to FILE, as a JSON line each, every event that it does not have yet, the oldest first.

    Call it again with the same file to go on, also where an export was cut off.
    """
    parent = _parent(platform=platform, everything=everything)
    with AuditFile(file) as trail:
        for event in state.client.audit.list(parent, after_sequence=trail.resume_after, page_size=1000):
            trail.add(event)
    if state.json:
        print_json({"file": str(file), "events": trail.added, "last_sequence": trail.last_sequence})
    said(f"Added {trail.added} events to {file}.", as_json=state.json)
