"""Where processes and engines run, as the control plane sees it; clusters/ has what is behind it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.run_trouble import RunTrouble
from trellis.v1.engine_pb2 import StreamTokensRequest, StreamTokensResponse


class RunStatus(StrEnum):
    """What a cluster says of a run; a hint, never the truth about the job."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"
    UNKNOWN = "UNKNOWN"
    """The cluster knows of no such run."""


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a cluster says of one run."""

    status: RunStatus
    message: str = ""
    """The cluster's word on it, for operators; it may quote what the run printed."""
    trouble: RunTrouble | None = None
    """What keeps it from starting, or ended it from outside, if the cluster knows."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A process to run on a cluster."""

    submission_id: str
    """Submitting the same id twice runs it once."""
    entrypoint: Sequence[str]
    environment: dict[str, str]
    cpus: float
    gpus: float
    metadata: dict[str, str]
    workers: int = 0
    """Further processes that the run will start by itself on other places of the cluster."""
    worker_cpus: float = 0.0
    """What each of those reserves."""
    worker_gpus: float = 0.0
    own_cluster: bool = False
    """Whether it gets nodes of its own where the cluster can give them, which go when it ends."""


class JobCluster(Protocol):
    """Where jobs' processes run. Calls raise Unavailable when the cluster can't be reached."""

    async def submit(self, request: RunRequest) -> None:
        """Starts the run unless a run of that id is there."""
        ...

    async def status(self, submission_id: str) -> RunReport:
        """The run's status, and the cluster's word on it."""
        ...

    async def stop(self, submission_id: str) -> None:
        """Ends the run's processes; a run that has ended or is unknown is no error."""
        ...

    async def log_tail(self, submission_id: str, max_bytes: int) -> str:
        """The end of what the run printed; empty if nothing is known."""
        ...

    async def forget(self, submission_id: str) -> None:
        """Deletes the cluster's record of an ended run."""
        ...

    async def list(self) -> Sequence[str]:
        """The submission ids of all runs that have not ended."""
        ...


@dataclass(frozen=True, slots=True)
class KeptCluster:
    """How one of the clusters that stay was found."""

    name: str
    change: str = ""
    """What was done to it, as a word such as `made`; empty if it was as it should be."""
    trouble: RunTrouble | None = None
    """What keeps it, or a part of it, from work."""


class StandingClusters(Protocol):
    """The clusters that are there all the time. Calls raise Unavailable when those who run them can't be reached."""

    async def keep(self) -> Sequence[KeptCluster]:
        """Makes those that are missing and corrects those that are not as the settings say."""
        ...


class HostEnds(Protocol):
    """What ended the hosts on which shared trainers run, from outside."""

    async def ended(self, host: str, since: datetime, until: datetime | None = None) -> RunTrouble | None:
        """What ended the host of that name, or any of them if it is empty, between then; None if nothing is known to have."""
        ...


class HostState(StrEnum):
    """What an engine host says of a base model's engine."""

    ABSENT = "ABSENT"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    FAILED = "FAILED"


class EngineHost(Protocol):
    """Where engines run, one for a base model. Calls raise Unavailable when it can't be reached."""

    async def ensure(self, bases: Sequence[BaseModel]) -> None:
        """Makes exactly these base models' engines run, starting and removing as needed; returns before they are up."""
        ...

    async def states(self) -> dict[str, tuple[HostState, str]]:
        """By base model id: the engine's state and a sentence on it."""
        ...

    def stream_tokens(self, base_model_id: str, request: StreamTokensRequest) -> AsyncIterator[StreamTokensResponse]:
        """The engine's answer; raises ResourceExhausted, Unavailable, InvalidArgument or NotFound. Closing the iterator
        ends the work.
        """
        ...
