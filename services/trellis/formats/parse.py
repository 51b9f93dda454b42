"""From a raw row to an example, or to everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from trellis.formats.errors import LineError
from trellis.formats.examples import Example, Kind
from trellis.formats.files import FileFormat
from trellis.formats.rows import RawRow


def parse_row(row: RawRow, kind: Kind | None = None) -> Example | list[LineError]:
    """The example that a row holds, or all of its errors.

    With `kind`, a row of another kind is the error `mixed_kinds`: pass the kind of the first good row of the dataset.
    """
    raise NotImplementedError


def read_examples(stream: BinaryIO, file_format: FileFormat) -> Iterator[tuple[int, Example]]:
    """The examples of a dataset that is known to be good, each with its line; blank lines are passed over.

    Raises InvalidLines at the first line that is not good.
    """
    raise NotImplementedError
