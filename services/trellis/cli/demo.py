"""`trellis demo`: the whole way once, with data that it makes itself."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Keep everything in this folder.  [default: a folder that vanishes]",
)
@click.option("--summary", type=click.Path(dir_okay=False, path_type=Path), help="Write the table here, as JSON.")
def demo(data_dir: Path | None, summary: Path | None) -> None:
    """Watch two tenants tune an adapter each on one base model, and call both; takes a few minutes."""
    from rich.console import Console

    import trellis
    from trellis.demo.run import demo as run
    from trellis.demo.scenes import DemoError
    from trellis.local.stack import StackError

    try:
        run(Console(soft_wrap=True), data_dir, summary)
    except (DemoError, StackError, trellis.JobFailed) as error:
        raise click.ClickException(str(error)) from error
