"""Pages of lists."""

from typing import Any, TypeVar

T = TypeVar("T")
MOST = 2


def page_of(items: list[T], request: Any) -> tuple[list[T], str]:
    """The page that was asked for, small unless a size is given, and the token of the next one."""
    start = int(request.page_token or 0)
    end = start + (request.page_size or MOST)
    return items[start:end], str(end) if end < len(items) else ""
