"""Work on many rows, of which a bad one must not keep the others waiting."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
_MOST_IN_A_ROW = 3


async def for_each(items: Iterable[T], work: Callable[[T], Awaitable[None]]) -> None:
    """Do the work on every item, and raise at the end what went wrong with some.

    After three failures in a row the fault is taken to be everybody's, and the rest is left for the next round.
    """
    errors: list[Exception] = []
    in_a_row = 0
    for item in items:
        try:
            await work(item)
        except Exception as error:  # noqa: BLE001  kept, and raised below
            errors.append(error)
            in_a_row += 1
            if in_a_row == _MOST_IN_A_ROW:
                break
        else:
            in_a_row = 0
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup(f"{len(errors)} items of a control loop failed", errors)
