"""Runs of lists."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A run of a list; `next_cursor` is None at the end, else what the next call's `cursor` must be."""

    items: Sequence[T]
    next_cursor: str | None
