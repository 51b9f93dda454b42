"""`trellis down`: ends what `trellis up` runs."""

from pathlib import Path

import click

from trellis.cli.up import data_dir_option, data_of
from trellis.local.stack import StackError, stop_running


@click.command()
@data_dir_option
def down(data_dir: Path | None) -> None:
    """End what `trellis up` runs over a folder; nothing in the folder is lost."""
    data = data_of(data_dir)
    try:
        ended = stop_running(data)
    except StackError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"Trellis over {data.root} has ended." if ended else f"Nothing runs over {data.root}.", err=True)
