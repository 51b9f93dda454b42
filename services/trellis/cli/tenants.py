"""`trellis tenants …`."""

import click

from trellis.cli.commands import group
from trellis.cli.output import deleted, print_many, print_one
from trellis.cli.state import State

_serving_weight = click.option(
    "--serving-weight", type=float, help="Its share of an engine's work beside others, 0.01 to 100.  [default: 1]"
)


@group("tenants")
def tenants() -> None:
    """Teams that share the platform."""


@tenants.command("create")
@click.argument("tenant_id")
@click.option("--display-name", default="", help="What people call it.")
@_serving_weight
@click.pass_obj
def create(state: State, tenant_id: str, display_name: str, serving_weight: float | None) -> None:
    """Create a tenant."""
    made = state.client.tenants.create(tenant_id, display_name=display_name, serving_weight=serving_weight or 0.0)
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
    columns = ("name", "display_name", "serving_weight", "create_time")
    print_many(state.client.tenants.list(), columns, as_json=state.json)


@tenants.command("update")
@click.argument("name")
@click.option("--display-name", help="What people call it.")
@_serving_weight
@click.pass_obj
def update(state: State, name: str, display_name: str | None, serving_weight: float | None) -> None:
    """Change a tenant."""
    if display_name is None and serving_weight is None:
        raise click.UsageError("Give --display-name or --serving-weight.")
    changed = state.client.tenants.update(name, display_name=display_name, serving_weight=serving_weight)
    print_one(changed, as_json=state.json)


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
