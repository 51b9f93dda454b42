"""`trellis trainers …`."""

import click

from trellis.cli.commands import group
from trellis.cli.output import print_many
from trellis.cli.state import State


@group("trainers")
def trainers() -> None:
    """Processes that train many tenants' jobs on one base model; for operators."""


@trainers.command("list")
@click.pass_obj
def list_(state: State) -> None:
    """List the trainers that are not over."""
    columns = ("name", "base_model", "precision", "state", "jobs", "tokens_per_second", "hostname", "report_time")
    print_many(state.client.trainers.list(), columns, as_json=state.json)
