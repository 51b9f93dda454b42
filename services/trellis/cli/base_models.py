"""`trellis base-models …`."""

from pathlib import Path

import click

from trellis.cli.commands import group
from trellis.cli.output import deleted, print_many, print_one
from trellis.cli.state import State


@group("base-models")
def base_models() -> None:
    """Models that adapters are trained on."""


@base_models.command("register")
@click.argument("name")
@click.option("--path", "source", required=True, help="A folder that the server sees, or a hub id such as ORG/MODEL.")
@click.option("--revision", default="", help="The hub's revision.")
@click.option("--display-name", default="", help="What people call it.")
@click.option("--default", is_flag=True, help="Use it where none is named.")
@click.pass_obj
def register(state: State, name: str, source: str, revision: str, display_name: str, default: bool) -> None:
    """Register a model of transformers."""
    here = Path(source).expanduser()
    place = str(here.absolute()) if here.is_dir() else source
    made = state.client.base_models.create(
        name, source=place, revision=revision, display_name=display_name, default=default
    )
    print_one(made, as_json=state.json)


@base_models.command("get")
@click.argument("name")
@click.pass_obj
def get(state: State, name: str) -> None:
    """Show a base model."""
    print_one(state.client.base_models.get(name), as_json=state.json)


@base_models.command("list")
@click.pass_obj
def list_(state: State) -> None:
    """List the base models."""
    columns = ("name", "architecture", "parameter_count", "context_length", "is_default", "source")
    print_many(state.client.base_models.list(), columns, as_json=state.json)


@base_models.command("delete")
@click.argument("name")
@click.pass_obj
def delete(state: State, name: str) -> None:
    """Take a base model out of the register; its files stay."""
    state.client.base_models.delete(name)
    deleted(name, as_json=state.json)
