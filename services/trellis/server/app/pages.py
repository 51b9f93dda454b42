"""Pages of lists. A token is good for the list that gave it, with the same parent and filter, and nothing else."""

import base64
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from trellis.errors import InvalidArgument, Reason
from trellis.server.app.ports import Page

T = TypeVar("T")
_MARK_BYTES = 12


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which page is asked for, as the request says it."""

    size: int = 0
    token: str = ""


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """A page of a list; the token is empty on the last one."""

    items: Sequence[T]
    next_page_token: str


async def read_page(
    scope: str,
    query: PageQuery,
    fetch: Callable[[int, str | None], Awaitable[Page[T]]],
    *,
    default: int = 50,
    most: int = 1000,
) -> Listed[T]:
    """The page that is asked for; `scope` is the list with its parent and filter."""
    if query.size < 0:
        raise InvalidArgument.for_field("page_size", f"{query.size} must not be negative.")
    cursor = _cursor_of(scope, query.token) if query.token else None
    page = await fetch(min(query.size or default, most), cursor)
    return Listed(page.items, "" if page.next_cursor is None else _token_for(scope, page.next_cursor))


def _token_for(scope: str, cursor: str) -> str:
    data = _mark(scope, cursor.encode()) + cursor.encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _cursor_of(scope: str, token: str) -> str:
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        mark, cursor = data[:_MARK_BYTES], data[_MARK_BYTES:]
        if mark == _mark(scope, cursor):
            return cursor.decode()
    except ValueError:
        pass
    message = "The page token was not made by this list with this parent and filter; begin without one."
    raise InvalidArgument.for_field("page_token", message, reason=Reason.INVALID_PAGE_TOKEN)


def _mark(scope: str, cursor: bytes) -> bytes:
    return hashlib.sha256(scope.encode() + b"\0" + cursor).digest()[:_MARK_BYTES]
