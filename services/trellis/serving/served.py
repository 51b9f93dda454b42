"""What a replica needs of an engine, whichever it is."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from trellis.engine import AdapterRef, EngineUsage, Output, Request


class Streaming(Protocol):
    """Answers requests."""

    def stream(self, request: Request) -> AsyncGenerator[Output, None]:
        """The pieces of the request's answer, the last one included; closing the iterator cancels the request.

        Whatever goes wrong with the request is the error of its last piece.
        """
        ...


class ServedEngine(Streaming, Protocol):
    """An engine for one base model and many adapters."""

    @property
    def is_alive(self) -> bool:
        """Whether it can still answer."""
        ...

    def start(self) -> None:
        """Begin to answer."""
        ...

    def stop(self) -> None:
        """End at once; requests in flight get no further piece."""
        ...

    def usage(self) -> EngineUsage:
        """What it holds and does."""
        ...

    def want(self, adapters: Sequence[AdapterRef]) -> None:
        """Have these at hand, as far as there is room, and forget those that were wanted before and are no more.

        It does a little each time, and is called again and again with the same ones.
        """
        ...
