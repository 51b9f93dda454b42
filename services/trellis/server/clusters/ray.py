"""Jobs' processes on a Ray cluster, through the REST API of Ray's Job Submission; needs no Ray in this process."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from trellis.errors import Reason, Unavailable
from trellis.server.app.hosts import RunReport, RunRequest, RunStatus
from trellis.server.clusters.ray_token import RayToken

_RETRY_SECONDS = 2.0
_ENDED = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.STOPPED})


class RayJobCluster:
    """`JobCluster` over `http://dashboard/api/jobs/`; see app.ports.JobCluster for what each method promises.

    `token` is what Ray asks for, or the file that it is in.
    """

    def __init__(self, dashboard_url: str, token: str | Path = "") -> None:
        self._http = httpx.AsyncClient(
            base_url=dashboard_url.rstrip("/"),
            auth=RayToken(token),
            timeout=httpx.Timeout(30.0, connect=5.0),
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def submit(self, request: RunRequest) -> None:
        """Starts the run unless a run of that id is there."""
        body: dict[str, Any] = {
            "submission_id": request.submission_id,
            "entrypoint": "exec " + shlex.join(request.entrypoint),
            "runtime_env": {"env_vars": request.environment},
            "metadata": request.metadata,
            "entrypoint_num_cpus": request.cpus,
            "entrypoint_num_gpus": request.gpus,
        }
        response = await self._call("POST", "/api/jobs/", json=body)
        if response.is_success or f"{request.submission_id} already exists" in response.text:
            return
        raise _unavailable(f"Ray did not take the run: {_last_line(response)}")

    async def status(self, submission_id: str) -> RunReport:
        """The run's status, and Ray's word on it."""
        response = await self._call("GET", f"/api/jobs/{submission_id}")
        if response.status_code == httpx.codes.NOT_FOUND:
            return RunReport(RunStatus.UNKNOWN, "Ray knows of no such run.")
        details = _json(response)
        return RunReport(RunStatus(details["status"]), details.get("message") or "")

    async def stop(self, submission_id: str) -> None:
        """Ends the run's processes; a run that has ended or is unknown is no error."""
        response = await self._call("POST", f"/api/jobs/{submission_id}/stop")
        if response.status_code != httpx.codes.NOT_FOUND:
            _json(response)

    async def log_tail(self, submission_id: str, max_bytes: int) -> str:
        """The end of what the run printed, from a line's beginning; empty if nothing is known."""
        response = await self._call("GET", f"/api/jobs/{submission_id}/logs")
        if not response.is_success:
            return ""
        text = str(_json(response).get("logs") or "")
        if len(text) <= max_bytes:
            return text
        tail = text[-max_bytes:]
        return tail.partition("\n")[2] or tail

    async def forget(self, submission_id: str) -> None:
        """Deletes Ray's record of an ended run; one that has not ended, or is unknown, is left alone."""
        await self._call("DELETE", f"/api/jobs/{submission_id}")

    async def list(self) -> Sequence[str]:
        """The submission ids of all runs that have not ended."""
        jobs = _json(await self._call("GET", "/api/jobs/"))
        return [
            job["submission_id"] for job in jobs if job.get("submission_id") and RunStatus(job["status"]) not in _ENDED
        ]

    async def _call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        try:
            return await self._http.request(method, path, **arguments)
        except httpx.HTTPError as error:
            raise _unavailable(f"Ray's dashboard at {self._http.base_url} can't be reached: {error}") from error


def _json(response: httpx.Response) -> Any:
    if not response.is_success:
        raise _unavailable(f"Ray answered {response.status_code}: {_last_line(response)}")
    return response.json()


def _last_line(response: httpx.Response) -> str:
    # Ray answers an error with its traceback; the last line of it says what was wrong.
    return next((line for line in reversed(response.text.splitlines()) if line.strip()), "no more is known")


def _unavailable(message: str) -> Unavailable:
    return Unavailable(Reason.ENGINE_UNAVAILABLE, message, retry_after=_RETRY_SECONDS)
