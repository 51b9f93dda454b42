"""`trellis admin simulate`: a queue played through the scheduler's own decisions, in a process of its own."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import click

from trellis.cli.commands import command
from trellis.cli.state import State

_PROGRESS = re.compile(r"progress (\d+)\s")
_WRITTEN = click.Path(dir_okay=False, writable=True, path_type=Path)


@command("simulate")
@click.option(
    "--trace", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A recorded queue, as JSON Lines."
)
@click.option("--jobs", type=click.IntRange(1), default=10_000, show_default=True, help="Made-up jobs.")
@click.option("--tenants", type=click.IntRange(1), default=200, show_default=True, help="Whose they are.")
@click.option("--accelerators", type=click.IntRange(1), default=1000, show_default=True, help="What there is.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of what is made up.")
@click.option(
    "--load",
    type=click.FloatRange(0.01),
    default=1.2,
    show_default=True,
    help="Work that comes, over what can be done.",
)
@click.option("--quotas/--no-quotas", default=True, help="Whether tenants have quotas, in cohorts.  [default: quotas]")
@click.option("--round", "pause", type=click.FloatRange(1), default=120.0, show_default=True,
              help="Seconds between two decisions.")  # fmt: skip
@click.option("--record", type=_WRITTEN, help="Write what was simulated here, to be replayed with --trace.")
@click.option("--plot", type=_WRITTEN, help="Draw utilisation, queue and fairness here, as SVG.")
@click.pass_obj
def simulate(state: State, /, trace: Path | None, quotas: bool, pause: float, **values: object) -> None:
    """Play a recorded or made-up queue through the scheduler, and report utilisation, waits and fairness.

    Nothing of a running platform is touched. Ends with code 1 if a job never ended.
    """
    options = {"trace": trace, "round": pause, "format": "json" if state.json else "table", **values}
    flags = [f"--{name}={value}" for name, value in options.items() if value is not None]
    flags += ["--quotas" if quotas else "--no-quotas", "--progress"]
    # In a process of its own: the CLI never imports the server.
    with subprocess.Popen(
        [sys.executable, "-m", "trellis.server.simulator", *flags], stderr=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        assert process.stderr is not None
        with _bar() as advance:
            _pass_on(process.stderr, advance)
    if process.returncode:
        raise click.exceptions.Exit(process.returncode)


def _pass_on(lines: Iterable[str] | IO[str], advance: Callable[[int], None]) -> None:
    """Steps of the bar go to the bar, everything else to standard error."""
    for line in lines:
        if found := _PROGRESS.fullmatch(line):
            advance(int(found[1]))
        else:
            click.echo(line, err=True, nl=False)


@contextlib.contextmanager
def _bar() -> Iterator[Callable[[int], None]]:
    """Of jobs that have ended, in a hundred; only on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("simulating", total=100)
        yield lambda done: bar.update(task, completed=done)
