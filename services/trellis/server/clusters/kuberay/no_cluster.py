"""A cluster on which nothing runs."""

from collections.abc import Sequence

from trellis.errors import Reason, Unavailable
from trellis.server.app.hosts import RunReport, RunRequest, RunStatus


class NoCluster:
    """`JobCluster` for where no run may go."""

    async def submit(self, request: RunRequest) -> None:
        """Refuses the run."""
        message = f"The run {request.submission_id} asks for no cluster of its own, and there is no other here."
        raise Unavailable(Reason.ENGINE_UNAVAILABLE, message, retry_after=30.0)

    async def status(self, submission_id: str) -> RunReport:  # noqa: ARG002
        """It knows of none."""
        return RunReport(RunStatus.UNKNOWN, "There is no such run.")

    async def stop(self, submission_id: str) -> None:
        """There is nothing to stop."""

    async def log_tail(self, submission_id: str, max_bytes: int) -> str:  # noqa: ARG002
        """Nothing was printed."""
        return ""

    async def forget(self, submission_id: str) -> None:
        """There is nothing to forget."""

    async def list(self) -> Sequence[str]:
        """There are none."""
        return []
