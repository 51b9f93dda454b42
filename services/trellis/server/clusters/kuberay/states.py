"""What a RayJob's own words mean for its run; pure."""

from typing import Any, Final

from trellis.server.app.hosts import RunStatus
from trellis.server.clusters.kuberay.resources import Object, is_going

SUBMITTED: Final = "trellis.dev/submitted"
"""The annotation of a RayJob whose Secret has been made too."""
STOPPED: Final = "trellis.dev/stopped"
"""The annotation of a RayJob that was told to end; its value says when."""
BEFORE: Final = "before it began"
DURING: Final = "while it ran"
_ENDED_WELL: Final = {"SUCCEEDED": RunStatus.SUCCEEDED, "STOPPED": RunStatus.STOPPED}
_ENDED_BADLY: Final = frozenset({"Failed", "ValidationFailed"})
_NOTHING_RUNS: Final = frozenset({"", "Suspended"})
"""The RayJob waits for KubeRay, or for Kueue to let it in: it has no pods."""
_NOT_BEGUN: Final = frozenset({"", "PENDING"})
ENDED: Final = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.STOPPED})


def run_status(ray_job: Object) -> RunStatus:
    """The run's status. UNKNOWN where it is being deleted, or was submitted by half: its Secret may be missing.

    That a run has ended is KubeRay's word on the whole, not Ray's on the job: by then its output is complete.
    """
    if is_going(ray_job):
        return RunStatus.UNKNOWN
    deployment, verdict = _said(ray_job, "jobDeploymentStatus"), _said(ray_job, "jobStatus")
    if deployment in {"Complete", *_ENDED_BADLY} and _annotations(ray_job).get(STOPPED) == BEFORE:
        return RunStatus.STOPPED
    if deployment == "Complete":
        return _ENDED_WELL.get(verdict, RunStatus.FAILED)
    if deployment in _ENDED_BADLY:
        by_us = was_stopped(ray_job) and _said(ray_job, "reason") == "DeadlineExceeded"
        return RunStatus.STOPPED if by_us or verdict == "STOPPED" else RunStatus.FAILED
    if was_stopped(ray_job) and deployment in _NOTHING_RUNS:
        return RunStatus.STOPPED
    if verdict == "" and not _annotations(ray_job).get(SUBMITTED) and not was_stopped(ray_job):
        return RunStatus.UNKNOWN
    return RunStatus.RUNNING if deployment == "Running" and verdict not in _NOT_BEGUN else RunStatus.PENDING


def run_message(ray_job: Object) -> str:
    """KubeRay's word on it, or Ray's, for operators."""
    if is_going(ray_job):
        return "Its RayJob is being deleted."
    if run_status(ray_job) is RunStatus.UNKNOWN:
        return "It was not wholly submitted."
    said = _said(ray_job, "message")
    if said:
        return said
    words = [_said(ray_job, "jobDeploymentStatus"), _said(ray_job, "reason")]
    return f"KubeRay says {' '.join(word for word in words if word)}." if any(words) else ""


def has_begun(ray_job: Object) -> bool:
    """Whether its program may run already; one that Kueue takes out would begin anew."""
    return _said(ray_job, "jobDeploymentStatus") not in {*_NOTHING_RUNS, "Initializing", "Suspending"}


def was_stopped(ray_job: Object) -> bool:
    """Whether somebody told it to end."""
    return bool(_annotations(ray_job).get(STOPPED))


def _annotations(ray_job: Object) -> dict[str, str]:
    return ray_job["metadata"].get("annotations") or {}


def _said(ray_job: Object, word: str) -> str:
    status: dict[str, Any] = ray_job.get("status") or {}
    return str(status.get(word) or "")
