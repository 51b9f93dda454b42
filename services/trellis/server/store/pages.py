"""Pages by keyset: a cursor says after which row the next page begins, so that each page costs the same."""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import BigInteger, Row, Select, literal, tuple_
from sqlalchemy.sql.elements import KeyedColumnElement

from trellis.errors import InvalidArgument, Reason
from trellis.server.app.ports import Page
from trellis.server.store.columns import UtcTime
from trellis.server.store.rows import named

T = TypeVar("T")
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class Keyset:
    """The columns, unique together, by which a list is sorted."""

    columns: tuple[KeyedColumnElement[Any], ...]
    descending: bool = False

    def select(self, statement: Select[Any], limit: int, cursor: str | None) -> Select[Any]:
        """The rows of the page that begins at `cursor`, and one more; raises InvalidArgument for a foreign cursor."""
        if cursor is not None:
            statement = statement.where(self._after(self._decode(cursor)))
        order = [column.desc() if self.descending else column.asc() for column in self.columns]
        return statement.order_by(*order).limit(limit + 1)

    def page(self, rows: Sequence[Row[Any]], limit: int, read: Callable[[Row[Any]], T]) -> Page[T]:
        """The page of the rows that `select` gave."""
        items = [read(row) for row in rows[:limit]]
        return Page(items, self.cursor(rows[limit - 1]) if len(rows) > limit else None)

    def cursor(self, row: Row[Any]) -> str:
        """What the next page's cursor is after this row."""
        values = [_plain(named(row)[column.name]) for column in self.columns]
        text = json.dumps(values, separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def _after(self, values: Sequence[Any]) -> Any:
        here = tuple_(*self.columns)
        there = tuple_(*(literal(value, column.type) for value, column in zip(values, self.columns, strict=True)))
        return here < there if self.descending else here > there

    def _decode(self, cursor: str) -> list[Any]:
        try:
            padded = cursor + "=" * (-len(cursor) % 4)
            values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
            return [_typed(value, column) for value, column in zip(values, self.columns, strict=True)]
        except (ValueError, TypeError) as error:
            message = "The page token was not made by this list."
            raise InvalidArgument.for_field("page_token", message, reason=Reason.INVALID_PAGE_TOKEN) from error


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _typed(value: object, column: KeyedColumnElement[Any]) -> object:
    if isinstance(column.type, BigInteger):
        if type(value) is not int or not -_LARGEST <= value <= _LARGEST:
            raise TypeError(f"{value!r} is no number")
        return value
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    if not isinstance(column.type, UtcTime):
        return value
    time = datetime.fromisoformat(value)
    if time.tzinfo is None:
        raise ValueError(f"{value!r} has no time zone")
    return time
