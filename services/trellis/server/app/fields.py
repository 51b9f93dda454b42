"""Checks of a request's fields, collected so that a caller hears of all that is wrong at once."""

import re
from typing import TypeVar

from trellis.errors import FieldViolation, InvalidArgument, Reason
from trellis.names import BaseModelName, ResourceName, check_id

N = TypeVar("N", bound=ResourceName)

MAX_TEXT = 100
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Violations:
    """What is wrong with a request."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []
        self._reasons: set[str] = set()

    def add(self, field: str, description: str) -> None:
        """Note one wrong field."""
        self._note(InvalidArgument.for_field(field, description))

    def extend(self, violations: tuple[FieldViolation, ...]) -> None:
        """Note several."""
        for violation in violations:
            self.add(violation.field, violation.description)

    def name(self, kind: type[N], value: str, field: str) -> N | None:
        """The name taken apart; None if it does not fit."""
        try:
            return kind.parse(value, field)
        except InvalidArgument as error:
            self._note(error)
            return None

    def base_model(self, value: str, field: str) -> bool:
        """Whether the value is a base model's name."""
        return self.name(BaseModelName, value, field) is not None

    def id(self, kind: str, value: str, field: str) -> None:
        """The last part of a name."""
        try:
            check_id(kind, value, field)
        except InvalidArgument as error:
            self._note(error)

    def text(self, value: str, field: str, most: int = MAX_TEXT) -> None:
        """A text for people: short, and without control characters."""
        if len(value) > most:
            self.add(field, f"It has {len(value)} characters, but {most} is the most.")
        if _CONTROL.search(value):
            self.add(field, "It must not have control characters.")

    def sha256(self, value: str, field: str) -> None:
        """A sha256 in hex."""
        if not _SHA256.fullmatch(value):
            self.add(field, "It must be a sha256 as 64 hexadecimal digits in lower case.")

    def raise_any(self) -> None:
        """Raise InvalidArgument if anything was noted."""
        if not self._found:
            return
        reason = self._reasons.pop() if len(self._reasons) == 1 else Reason.INVALID_FIELD
        message = " ".join(f"{v.field}: {v.description}" for v in self._found)
        raise InvalidArgument(reason, message, violations=tuple(self._found))

    def _note(self, error: InvalidArgument) -> None:
        self._found.extend(error.violations)
        self._reasons.add(error.reason)


def printable(text: str, most: int) -> str:
    """The text as a database can keep it: without NUL, and not longer than `most` characters."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")[:most]
