"""One row of a file before anything in it has been judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trellis.formats.errors import LineError

MAX_LINE_BYTES = 4 * 1024 * 1024
"""The longest line that is read, about a million tokens; a longer one is an error and is never held in memory."""


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it stands in the file: JSON text (bytes), or the columns of a table, or what kept it from being read.

    `line` is one-based: the line of a text file where the row starts, or the row of a Parquet file.
    """

    line: int
    data: bytes | Mapping[str, Any]
    problem: LineError | None = None

    @property
    def empty(self) -> bool:
        """Whether the row is blank, which is no error and no example either."""
        return self.problem is None and not self.data
