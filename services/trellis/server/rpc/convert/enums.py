"""Enums: the domain's names are the API's, after the prefix that protobuf wants.

`wrapper` is the generated enum, which the stubs and the run time type differently.
"""

from enum import Enum
from typing import Any, TypeVar

from trellis.errors import InvalidArgument

E = TypeVar("E", bound=Enum)


def to_wire(wrapper: Any, prefix: str, member: Enum | None) -> Any:
    """The number of the domain's member, as any enum's value; 0 for None."""
    return 0 if member is None else int(wrapper.Value(f"{prefix}{member.name}"))


def from_wire(wrapper: Any, prefix: str, kind: type[E], number: int, path: str) -> E | None:
    """The domain's member; None for 0. Raises InvalidArgument naming `path` for a number that nobody knows."""
    if number == 0:
        return None
    try:
        return kind[wrapper.Name(number).removeprefix(prefix)]
    except (KeyError, ValueError):
        raise InvalidArgument.for_field(path, f"{number} is not one of {wrapper.DESCRIPTOR.name}.") from None
