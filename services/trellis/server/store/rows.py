"""Rows by the names of their columns."""

from typing import Any

from sqlalchemy import Row


def named(row: Row[Any]) -> dict[str, Any]:
    """The row's values, by column."""
    return row._asdict()
