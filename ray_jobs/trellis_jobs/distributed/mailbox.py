"""What workers and the driver tell each other: an actor of Ray that keeps messages until they are fetched."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trellis.v1.worker_pb2 import STOP_REQUEST_UNSPECIFIED
from trellis_jobs.failure import Failure, Stop


@dataclass(frozen=True, slots=True)
class Message:
    """A call of one of the driver's methods."""

    name: str
    values: Mapping[str, Any] = field(default_factory=dict)


class Mailbox:
    """The actor's class; the driver makes it, and each worker has its handle."""

    def __init__(self) -> None:
        self._messages: list[Message] = []
        self._failures: list[tuple[int, Failure]] = []
        self._stop: Stop = STOP_REQUEST_UNSPECIFIED

    def push(self, messages: list[Message]) -> int:
        """Keep messages for the driver; what it wants of the workers, a StopRequest."""
        self._messages += messages
        return int(self._stop)

    def fail(self, rank: int, failure: Failure) -> None:
        """Keep what made a worker give up; its peers give up after it, as they hear no more of it."""
        self._failures.append((rank, failure))

    def take(self) -> tuple[list[Message], list[tuple[int, Failure]]]:
        """All messages since the last call, and all failures, the first one first."""
        messages, self._messages = self._messages, []
        return messages, list(self._failures)

    def stop(self, stop: int) -> None:
        """Ask the workers to stop after their step."""
        self._stop = stop  # type: ignore[assignment]  # a value of the enum, as a plain number on its way
