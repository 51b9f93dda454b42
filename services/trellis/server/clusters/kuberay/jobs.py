"""Runs on Kubernetes: those with nodes of their own are RayJobs, the others go to the standing Ray cluster."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from trellis.errors import Reason, Unavailable
from trellis.server.app.hosts import JobCluster, RunReport, RunRequest, RunStatus
from trellis.server.clusters.kuberay import manifests
from trellis.server.clusters.kuberay.api import KubeApi, Refused
from trellis.server.clusters.kuberay.informer import Informer
from trellis.server.clusters.kuberay.logs import run_log
from trellis.server.clusters.kuberay.owner import Owner
from trellis.server.clusters.kuberay.pods import COMPONENT, INSTANCE
from trellis.server.clusters.kuberay.resources import (
    NETWORK_POLICIES,
    RAY_JOBS,
    SECRETS,
    Object,
    is_going,
    name_of,
    uid_of,
    version_of,
)
from trellis.server.clusters.kuberay.settings import KubeRaySettings
from trellis.server.clusters.kuberay.sight import TroubleSight
from trellis.server.clusters.kuberay.states import (
    BEFORE,
    DURING,
    ENDED,
    STOPPED,
    SUBMITTED,
    has_begun,
    run_message,
    run_status,
    was_stopped,
)
from trellis.server.domain.run_trouble import RunTrouble, TroubleCode

_log = structlog.get_logger(__name__)
_RETRY_SECONDS: Final = 2.0
_TRIES: Final = 3
_REMEMBERED: Final = 10_000
_GOES_ON: Final = frozenset({RunStatus.PENDING, RunStatus.RUNNING})


class KubeRayCluster:
    """`JobCluster` over KubeRay's RayJobs, beside the standing cluster; see app.hosts for what each method promises.

    Which of the two has a run is found out by looking for its RayJob. What decides something is read from Kubernetes
    itself; what is only told may come from a copy that a watch keeps.
    """

    def __init__(
        self,
        api: KubeApi,
        settings: KubeRaySettings,
        standing: JobCluster,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._settings = settings
        self._standing = standing
        self._clock = clock
        self._owner = Owner(api, settings)
        self._selector = f"{manifests.selector(settings)},{COMPONENT}=job"
        self._jobs = Informer(api, RAY_JOBS, self._selector)
        self._sight = TroubleSight(api, self._selector)
        self._forgotten: dict[str, None] = {}
        self._refused: dict[str, str] = {}
        self._ended_since: dict[str, float] = {}

    async def close(self) -> None:
        """Ends the watches and closes the connections to Kubernetes."""
        await self._jobs.close()
        await self._sight.close()
        await self._api.close()

    async def submit(self, request: RunRequest) -> None:
        """Starts the run unless a run of that id is there, or was forgotten here, or was told to end."""
        if not request.own_cluster:
            await self._standing.submit(request)
            return
        if request.submission_id in self._forgotten:
            return
        try:
            await self._submit(request)
        except Refused as error:
            _remember(self._refused, request.submission_id, str(error))
            raise
        self._refused.pop(request.submission_id, None)

    async def _submit(self, request: RunRequest) -> None:
        run, settings = request.submission_id, self._settings
        body = manifests.ray_job(settings, request, await self._owner.reference())
        made = await self._api.create(RAY_JOBS, body) or await self._api.get(RAY_JOBS, manifests.job_name(run))
        if made is None:
            return  # it was there, and was forgotten meanwhile
        if not self._is_ours(made, run):
            raise _unavailable(
                f"Another's RayJob {name_of(made)!r} is in the way of the run {run}: delete or rename it."
            )
        if is_going(made):
            raise _unavailable(f"An earlier RayJob of the run {run} is still being deleted.")
        if was_stopped(made) or run_status(made) in ENDED:
            return
        if settings.network_policies:
            await self._api.create(NETWORK_POLICIES, manifests.run_network_policy(settings, request, uid_of(made)))
        await self._api.create(SECRETS, manifests.run_secret(settings, request, uid_of(made)))
        marked = await self._api.patch(RAY_JOBS, name_of(made), _annotation(SUBMITTED, "true"))
        if marked is not None:
            self._jobs.observe(marked)

    async def status(self, submission_id: str) -> RunReport:
        """The run's status, KubeRay's word on it, and what keeps it from starting or ended it."""
        found = await self._look(submission_id)
        if found is not None and run_status(found) not in _GOES_ON:
            found = await self._read(submission_id)  # something is decided by that: the copy may be behind
        if found is None:
            report = await self._standing.status(submission_id)
            refused = self._refused.get(submission_id)
            if report.status is not RunStatus.UNKNOWN or refused is None:
                return report
            wrong = RunTrouble(TroubleCode.CONFIGURATION, "The cluster does not take the run as it is set up.")
            return RunReport(RunStatus.UNKNOWN, refused, wrong)
        status = run_status(found)
        # Also of one that runs: a worker of it may have been ended, which the rest has not noticed or can't explain.
        trouble = await self._sight.trouble(found) if status is not RunStatus.SUCCEEDED else None
        return RunReport(status, run_message(found), trouble)

    async def stop(self, submission_id: str) -> None:
        """Ends the run's processes, and keeps its record and output; one that has ended or is unknown is no error.

        KubeRay takes the Ray cluster of a RayJob away that is past its deadline, and leaves the submitter's pod with the
        output. If it is still to begin, as Kueue holds it or has taken it out, it finds another program, which does nothing: it
        may be let in before it is forgotten.
        """
        found = await self._read(submission_id)
        if found is None:
            await self._standing.stop(submission_id)
        elif run_status(found) not in ENDED and not is_going(found):
            end = {"activeDeadlineSeconds": 1, "ttlSecondsAfterFinished": 0, "entrypoint": "true"}
            change = {**_annotation(STOPPED, DURING if has_begun(found) else BEFORE), "spec": end}
            stopped = await self._api.patch(RAY_JOBS, name_of(found), change)
            if stopped is not None:
                self._jobs.observe(stopped)

    async def log_tail(self, submission_id: str, max_bytes: int) -> str:
        """The end of what the run printed, from a line's beginning; empty if nothing is known."""
        found = await self._look(submission_id)
        if found is None:
            return await self._standing.log_tail(submission_id, max_bytes)
        return await run_log(self._api, self._selector, name_of(found), max_bytes)

    async def forget(self, submission_id: str) -> None:
        """Deletes the RayJob of a run that has ended or never began, and with it all that belongs to it."""
        for _ in range(_TRIES):
            found = await self._read(submission_id)
            if found is None:
                await self._standing.forget(submission_id)
                return
            if is_going(found) or run_status(found) not in {*ENDED, RunStatus.UNKNOWN}:
                return
            # Only as it was read: it must not have begun meanwhile.
            if await self._delete(found):
                _remember(self._forgotten, submission_id, None)
                return

    async def list(self) -> Sequence[str]:
        """The submission ids of all runs that have not ended, on their own clusters and on the standing one."""
        self._jobs.start()
        found = self._jobs.items() if self._jobs.is_fresh else (await self._api.list(RAY_JOBS, self._selector)).items
        await self._clear_away(found)
        own = [run for one in found if (run := _run_of(one)) and not is_going(one) and run_status(one) not in ENDED]
        return [*own, *await self._standing.list()]

    async def _clear_away(self, found: Sequence[Object]) -> None:
        """Delete what has ended long ago and nobody has forgotten: who should have was held up, or is no more."""
        now = self._clock()
        ended = {name_of(one): one for one in found if run_status(one) in ENDED}
        self._ended_since = {name: self._ended_since.get(name, now) for name in ended}
        for name, since in self._ended_since.items():
            if now >= since + self._settings.jobs.keep_seconds:
                with suppress(Unavailable):  # the next look does it
                    await self._delete(ended[name])
                    _log.warning("ended_run_deleted", run=_run_of(ended[name]))

    async def _delete(self, one: Object) -> bool:
        done = await self._api.delete(RAY_JOBS, name_of(one), uid_of(one), version_of(one))
        if done:
            self._jobs.deleted(one)
        return done

    async def _look(self, submission_id: str) -> Object | None:
        """Its RayJob, which may be a little behind. That there is none is never taken from the copy."""
        self._jobs.start()
        copy = self._jobs.get(manifests.job_name(submission_id)) if self._jobs.is_fresh else None
        if copy is not None and self._is_ours(copy, submission_id):
            return copy
        return await self._read(submission_id)

    async def _read(self, submission_id: str) -> Object | None:
        found = await self._api.get(RAY_JOBS, manifests.job_name(submission_id))
        return found if found is not None and self._is_ours(found, submission_id) else None

    def _is_ours(self, ray_job: Object, submission_id: str) -> bool:
        labels = ray_job["metadata"].get("labels") or {}
        return labels.get(INSTANCE) == self._settings.name and _run_of(ray_job) == submission_id


def _run_of(ray_job: Object) -> str:
    annotations = ray_job["metadata"].get("annotations") or {}
    return str(annotations.get(manifests.RUN, ""))


def _annotation(name: str, value: str) -> dict[str, Any]:
    return {"metadata": {"annotations": {name: value}}}


def _remember(memory: dict[str, Any], run: str, what: Any) -> None:
    memory[run] = what
    while len(memory) > _REMEMBERED:
        del memory[next(iter(memory))]


def _unavailable(message: str) -> Unavailable:
    return Unavailable(Reason.ENGINE_UNAVAILABLE, message, retry_after=_RETRY_SECONDS)
