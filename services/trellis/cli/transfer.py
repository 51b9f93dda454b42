"""A bar for bytes on their way."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Sent = Callable[[int, int], None]


@contextmanager
def transfer_bar(label: str, *, quiet: bool) -> Iterator[Sent | None]:
    """A callback that draws how much has gone, on a terminal; None where nobody looks."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
