"""What is known of a piece of work: when, how long, what came of it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from enum import Enum
from typing import Final, Protocol

TRACEPARENT: Final = "traceparent"
"""The name of the header that carries a span's place in its trace (W3C Trace Context)."""
ROOT: Final = ""
"""As a parent: none; the span begins a trace."""
Value = str | bool | int | float


class Kind(Enum):
    """Which end of a call a span is, if it is one."""

    INTERNAL = "INTERNAL"
    SERVER = "SERVER"
    CLIENT = "CLIENT"


class Span(Protocol):
    """A piece of work that goes on until `end`."""

    @property
    def traceparent(self) -> str:
        """Its place in its trace; empty when nothing is traced."""
        ...

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits; empty when nothing is traced."""
        ...

    def set(self, name: str, value: Value) -> None:
        """Say something of it."""
        ...

    def event(self, name: str, values: Mapping[str, Value]) -> None:
        """Something happened in it just now."""
        ...

    def fail(self, kind: str) -> None:
        """It went wrong; `kind` is one of few: a gRPC status, a reason, the name of an exception."""
        ...

    def end(self, at: datetime | None = None) -> None:
        """It is over, now or at that time; what comes after the first end is nothing."""
        ...


class Tracer(Protocol):
    """Makes spans."""

    def begin(
        self,
        name: str,
        kind: Kind,
        parent: str | None,
        links: tuple[str, ...],
        values: Mapping[str, Value],
        start: datetime | None,
    ) -> Span:
        """See trellis.tracing.begin."""
        ...

    def current(self) -> Span:
        """What this task or thread is in the middle of."""
        ...

    def within(self, span: Span) -> AbstractContextManager[None]:
        """Makes the span the current one."""
        ...

    def close(self, seconds: float) -> None:
        """Export what has ended, in so many seconds at the most."""
        ...


class _Nothing:
    """The span of a process that does not trace."""

    traceparent = ""
    trace_id = ""

    def set(self, name: str, value: Value) -> None:
        """Do nothing."""

    def event(self, name: str, values: Mapping[str, Value]) -> None:
        """Do nothing."""

    def fail(self, kind: str) -> None:
        """Do nothing."""

    def end(self, at: datetime | None = None) -> None:
        """Do nothing."""


NOTHING: Final[Span] = _Nothing()
