"""A fetch of a base model, with a bar for people."""

from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from trellis.base_cache.progress import Event

try:
    from trellis.base_cache.fetch import FetchOptions, fetch, verify
except ModuleNotFoundError as error:  # an installation of the client alone
    raise click.ClickException(
        f"{error.name} is not installed; this command needs: pip install 'trellis[server]'"
    ) from error


@dataclass(frozen=True, slots=True)
class Shown:
    """What was fetched, as it is printed."""

    source: str
    revision: str
    bytes: int
    path: str
    was_present: bool


def fetch_shown(source: str, revision: str, cache: Path, *, offline: bool, quiet: bool) -> Shown:
    """Fetch, with a bar on stderr. Raises BaseCacheError."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=quiet) as bar:
        task = bar.add_task(source, total=None)

        def show(event: Event) -> None:
            bar.update(task, completed=event.done, total=event.total or None)
            if event.message and not quiet:
                console.print(event.message, highlight=False, markup=False, soft_wrap=True)

        got = fetch(source, revision, cache, show, FetchOptions(offline=offline))
    return Shown(source, got.revision, got.bytes, str(got.path), got.was_present)


def damages_of(source: str, revision: str, cache: Path) -> list[str]:
    """A sentence for each file that is not what was fetched. Raises BaseCacheError."""
    return verify(source, revision, cache)
