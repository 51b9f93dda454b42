"""`trellis tenants …`."""

import click

from trellis.cli.commands import group
from trellis.cli.output import deleted, print_many, print_one
from trellis.cli.state import State


@group("tenants")
def tenants() -> None:
    """Teams that share the platform."""


@tenants.command("create")
@click.argument("tenant_id")
@click.option("--display-name", default="", help="What people call it.")
@click.pass_obj
def create(state: State, tenant_id: str, display_name: str) -> None:
    """Create a tenant."""
    print_one(state.client.tenants.create(tenant_id, display_name=display_name), as_json=state.json)


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
    print_many(state.client.tenants.list(), ("name", "display_name", "create_time"), as_json=state.json)


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
