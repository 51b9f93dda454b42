"""`trellis tenants …`."""

from collections.abc import Callable, Mapping
from typing import Any

import click

from trellis.cli.commands import group
from trellis.cli.output import cell, deleted, print_json, print_many, print_one, print_table
from trellis.cli.quota_options import changed_quota, quota_options
from trellis.cli.state import State
from trellis.client.types import LimitStatus, Quota


def _tenant_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """What `create` and `update` both take."""
    serving = "Its share of an engine's work beside others, 0.01 to 100.  [default: 1]"
    training = "Its share of training beside others, 0.01 to 100.  [default: 1]"
    for option in (
        click.option("--cohort", help="Whom it lends unused accelerators to, and borrows them from."),
        click.option("--training-weight", type=float, help=training),
        click.option("--serving-weight", type=float, help=serving),
        click.option("--display-name", help="What people call it."),
    ):
        function = option(function)
    return quota_options(function)


@group("tenants")
def tenants() -> None:
    """Teams that share the platform."""


@tenants.command("create")
@click.argument("tenant_id")
@_tenant_options
@click.pass_obj
def create(state: State, /, tenant_id: str, **options: Any) -> None:
    """Create a tenant; without limits nothing binds it."""
    quota = changed_quota(Quota(), options)
    made = state.client.tenants.create(tenant_id, quota=quota, **_given(options))
    print_one(made, as_json=state.json)


@tenants.command("get")
@click.argument("name")
@click.pass_obj
def get(state: State, name: str) -> None:
    """Show a tenant."""
    print_one(state.client.tenants.get(name), as_json=state.json)


@tenants.command("list")
@click.pass_obj
def list_(state: State) -> None:
    """List the tenants."""
    columns = ("name", "display_name", "serving_weight", "training_weight", "cohort", "create_time")
    print_many(state.client.tenants.list(), columns, as_json=state.json)


@tenants.command("update")
@click.argument("name")
@_tenant_options
@click.pass_obj
def update(state: State, /, name: str, **options: Any) -> None:
    """Change a tenant; limits that are not named stay, and `none` lifts one."""
    fields = _given(options)
    quota, etag = None, ""
    if changed_quota(Quota(), options) is not None:
        # A quota is replaced as a whole: by its etag, so that nobody else's change is lost.
        before = state.client.tenants.get(name)
        quota, etag = changed_quota(before.quota, options), before.etag
    elif not fields:
        raise click.UsageError("Give an option that says what to change, such as --open-jobs; --help lists them.")
    changed = state.client.tenants.update(name, quota=quota, etag=etag, **fields)
    print_one(changed, as_json=state.json)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a tenant beside its quota that the command line names."""
    names = ("display_name", "serving_weight", "training_weight", "cohort")
    return {name: options[name] for name in names if options[name] is not None}


@tenants.command("quota")
@click.argument("name", required=False)
@click.pass_obj
def quota(state: State, name: str | None) -> None:
    """Show what a tenant, your own without NAME, uses of each limit.

    HELD is for what has not ended: jobs that run, uploads on their way, exports that are being made.
    """
    status = state.client.usage.quota(name)
    if state.json:
        print_json(status)
        return
    head = ("LIMIT", "ALLOWED", "SOFT", "USED", "HELD", "PERIOD END")
    print_table(head, [_limit_row(limit) for limit in status.limits])


def _limit_row(limit: LimitStatus) -> list[str]:
    # In full: of bytes and tokens the last digits count too.
    numbers = (limit.allowed, limit.soft, limit.used, limit.held)
    shown = ["-" if number is None else f"{number:.15g}" for number in numbers]
    return [cell(limit.limit), *shown, cell(limit.period_end_time)]


@tenants.command("delete")
@click.argument("name")
@click.option("--force", is_flag=True, help="Also delete everything that it has.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def delete(state: State, name: str, force: bool, yes: bool) -> None:
    """Delete a tenant."""
    if force and not yes:
        click.confirm(f"Delete {name} with all its datasets, jobs and adapters?", abort=True, err=True)
    state.client.tenants.delete(name, force=force)
    deleted(name, as_json=state.json)
