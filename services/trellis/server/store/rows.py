"""Rows by the names of their columns, and keys a few at a time."""

from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Row

Key = TypeVar("Key")
_AT_ONCE = 500


def named(row: Row[Any]) -> dict[str, Any]:
    """The row's values, by column."""
    return row._asdict()


def in_batches(keys: Collection[Key], most: int = _AT_ONCE) -> Iterator[list[Key]]:
    """The keys, no more at a time than a statement should name."""
    rest = iter(keys)
    while some := list(islice(rest, most)):
        yield some
