"""What a test makes go wrong between the server and the stand-in's API."""

import asyncio
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Fault:
    """What becomes of one request: a status, a wait, or a connection that is cut before or after the work is done."""

    status: int = 0
    retry_after: str = ""
    seconds: float = 0.0
    cut: bool = False
    loses_answer: bool = False


@dataclass(slots=True)
class Faults:
    """Switches; all are off at first."""

    planned: dict[tuple[str, str], list[Fault]] = field(default_factory=dict)
    """By verb and resource, such as ("create", "rayjobs"): what becomes of the next requests, in order."""
    token_expired: bool = False
    events_come_twice: bool = False
    events_to_lose: int = 0
    """So many events are told to nobody."""
    gone_as_status: bool = False
    """Whether a watch that is too old is answered with 410, not with an event in a stream."""
    cutting: asyncio.Event = field(default_factory=asyncio.Event)

    def plan(self, verb: str, resource: str, *faults: Fault) -> None:
        """The next requests go so."""
        self.planned.setdefault((verb, resource), []).extend(faults)

    def take(self, verb: str, resource: str) -> Fault:
        """What becomes of this request."""
        waiting = self.planned.get((verb, resource))
        return waiting.pop(0) if waiting else Fault()

    def cut_watches(self) -> None:
        """Every open watch loses its connection in the middle of a line."""
        self.cutting.set()
        self.cutting = asyncio.Event()
