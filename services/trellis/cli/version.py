"""`trellis version`."""

import platform

import click

import trellis
from trellis.cli.commands import command
from trellis.cli.output import print_json
from trellis.cli.state import State


@command("version")
@click.pass_obj
def version(state: State) -> None:
    """Show the version of this program."""
    if state.json:
        print_json({"trellis": trellis.__version__, "python": platform.python_version()})
    else:
        click.echo(f"trellis {trellis.__version__} (Python {platform.python_version()})")
