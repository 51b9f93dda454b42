"""A file of audit events, a JSON line each, that exports go on with."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click

from trellis.cli.output import document
from trellis.client.types import AuditEvent
from trellis.secret_files import open_secret_file

_TAIL_BYTES = 8 << 20
_OVERLAP = timedelta(minutes=10)
"""Two changes at once can enter the trail in another order than they got their places: so far back it is asked again."""


class AuditFile:
    """Adds the events that the file does not have. Raises ClickException for a file of something else."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: set[int] = set()
        self.added = 0
        self.resume_after = 0
        """The place in the trail after which the server is to be asked."""
        self.last_sequence = 0

    def __enter__(self) -> Self:
        self._file = os.fdopen(open_secret_file(self._path, os.O_RDWR), "r+b")
        try:
            self._read_tail()
        except (ValueError, KeyError, TypeError) as error:
            self._file.close()
            raise click.ClickException(f"{self._path} is no export of audit events: {error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, event: AuditEvent) -> None:
        """Append it, unless it is there."""
        if event.sequence not in self._known:
            self._file.write(json.dumps(document(event), ensure_ascii=False, sort_keys=True).encode() + b"\n")
            self.added += 1
            self.last_sequence = max(self.last_sequence, event.sequence)

    def _read_tail(self) -> None:
        size = self._file.seek(0, os.SEEK_END)
        start = self._file.seek(max(0, size - _TAIL_BYTES))
        data = self._file.read()
        whole = data.rfind(b"\n") + 1  # an export that was killed can leave half a line
        self._file.truncate(start + whole)
        self._file.seek(0, os.SEEK_END)
        lines = data[:whole].splitlines()
        events = [json.loads(line) for line in (lines[1:] if start else lines)]
        if not events:
            return
        begin = max(map(_time_of, events)) - _OVERLAP
        recent = [int(event["sequence"]) for event in events if _time_of(event) >= begin]
        self._known = set(recent)
        self.last_sequence = max(recent)
        self.resume_after = min(recent) - 1


def _time_of(event: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(event["time"]).astimezone(UTC)
