"""Shows how several jobs come along: bars where somebody watches, lines where the output goes to a file."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress as Bars, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from trellis.client.types import JobEvent

_LINE_SECONDS = 5.0
_SAID = 44
"""Characters of what is said beside a bar: with the rest of the row, 80."""


class Board:
    """One row for each tenant's job."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None
        if console.is_terminal:
            self._bars = Bars(
                TextColumn("  {task.description:<8}"),
                BarColumn(bar_width=14),
                TextColumn("{task.fields[said]}", table_column=Column(width=_SAID, no_wrap=True)),
                TimeElapsedColumn(),
                console=console,
            )
        self._rows: dict[str, TaskID] = {}
        self._said: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> Self:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def add(self, tenant: str) -> None:
        """A row for the tenant."""
        if self._bars:
            self._rows[tenant] = self._bars.add_task(tenant, total=1.0, said="submitted")

    def show(self, tenant: str, event: JobEvent) -> None:
        """What happened to the tenant's job."""
        progress = event.progress
        if progress is None or not progress.total_steps:
            said, share = (progress.phase if progress else event.message), None
        else:
            share = progress.step / progress.total_steps
            said = f"{progress.phase}, step {progress.step}/{progress.total_steps}"
            said += f", loss {progress.loss:.2f}" if progress.loss is not None else ""
            said += f", {progress.eta.total_seconds():.0f} s left" if progress.eta else ""
        if event.metrics is None and event.checkpoint is None:
            self._put(tenant, said, share)

    def _put(self, tenant: str, said: str, share: float | None) -> None:
        if self._bars:
            self._bars.update(self._rows[tenant], said=said[:_SAID], completed=share)
            return
        before, when = self._said.get(tenant, ("", -_LINE_SECONDS))
        now = time.monotonic()
        if said.partition(",")[0] != before.partition(",")[0] or now - when >= _LINE_SECONDS:
            self._console.print(f"  {tenant:<8}{said}", highlight=False)
            self._said[tenant] = (said, now)
