"""A cluster in memory. It passes the contract tests of the real one, and lets a test say what happens to the runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from trellis.errors import Reason, Unavailable
from trellis.server.app.hosts import RunReport, RunRequest, RunStatus
from trellis.server.domain.run_trouble import RunTrouble

ENDED = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.STOPPED})


@dataclass(frozen=True, slots=True)
class Script:
    """What a program does: how it ends (RUNNING: not by itself), and what it prints."""

    status: RunStatus = RunStatus.RUNNING
    output: str = ""
    message: str = ""


@dataclass(slots=True)
class Run:
    """A run that was submitted."""

    request: RunRequest
    status: RunStatus = RunStatus.PENDING
    message: str = ""
    output: str = ""
    trouble: RunTrouble | None = None


class FakeJobCluster:
    """`scripts` says what becomes of a run, by its entrypoint, when its status is asked for; others stay as they are."""

    def __init__(self, scripts: Mapping[tuple[str, ...], Script] | None = None) -> None:
        self.runs: dict[str, Run] = {}
        self.started: list[str] = []
        """Every run that was begun, in order; one that was begun twice is here twice."""
        self.reachable = True
        self.before: Callable[[str], None] = lambda _: None
        """Called with the method's name before anything happens; may raise."""
        self.after: Callable[[str], None] = lambda _: None
        """Called when it has happened; may raise, as if the answer were lost."""
        self._scripts = dict(scripts or {})

    async def submit(self, request: RunRequest) -> None:
        self._called("submit")
        if request.submission_id not in self.runs:
            self.runs[request.submission_id] = Run(request)
            self.started.append(request.submission_id)
        self.after("submit")

    async def status(self, submission_id: str) -> RunReport:
        self._called("status")
        run = self.runs.get(submission_id)
        if run is None:
            return RunReport(RunStatus.UNKNOWN, "There is no such run.")
        self._play(run)
        return RunReport(run.status, run.message, run.trouble)

    async def stop(self, submission_id: str) -> None:
        self._called("stop")
        run = self.runs.get(submission_id)
        if run is not None and run.status not in ENDED:
            run.status = RunStatus.STOPPED
        self.after("stop")

    async def log_tail(self, submission_id: str, max_bytes: int) -> str:
        self._called("log_tail")
        run = self.runs.get(submission_id)
        text = run.output if run else ""
        if len(text) <= max_bytes:
            return text
        tail = text[-max_bytes:]
        return tail.partition("\n")[2] or tail

    async def forget(self, submission_id: str) -> None:
        self._called("forget")
        run = self.runs.get(submission_id)
        if run is not None and run.status in ENDED:
            del self.runs[submission_id]
        self.after("forget")

    async def list(self) -> Sequence[str]:
        self._called("list")
        return [run_id for run_id, run in self.runs.items() if run.status not in ENDED]

    async def close(self) -> None:
        pass

    def end(self, submission_id: str, status: RunStatus, message: str = "", output: str = "") -> None:
        """The run's process ends so."""
        run = self.runs[submission_id]
        if run.status not in ENDED:
            run.status, run.message, run.output = status, message, run.output + output

    def restart(self) -> None:
        """The cluster dies with all its processes, and comes back knowing nothing."""
        self.runs.clear()
        self.started.clear()

    def alive(self) -> Sequence[str]:
        """The runs whose processes live."""
        return [run_id for run_id, run in self.runs.items() if run.status not in ENDED]

    def _called(self, method: str) -> None:
        self.before(method)
        if not self.reachable:
            raise Unavailable(Reason.ENGINE_UNAVAILABLE, "The cluster can't be reached.", retry_after=1.0)

    def _play(self, run: Run) -> None:
        script = self._scripts.get(tuple(run.request.entrypoint))
        if script is not None and run.status not in ENDED:
            run.status, run.message, run.output = script.status, script.message, script.output
