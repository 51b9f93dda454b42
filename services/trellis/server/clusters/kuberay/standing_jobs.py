"""The jobs of the standing cluster, with what keeps its pods from working."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from trellis.errors import Unavailable
from trellis.server.app.hosts import JobCluster, RunReport, RunRequest, RunStatus
from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.cluster_sight import ClusterSight
from trellis.server.clusters.kuberay.ended_pods import EndedPods
from trellis.server.clusters.kuberay.manifests import trainers_name
from trellis.server.clusters.kuberay.resources import RAY_CLUSTERS
from trellis.server.clusters.kuberay.settings import KubeRaySettings
from trellis.server.domain.run_trouble import RunTrouble

_SECONDS: Final = 5.0
"""So long an answer of Kubernetes counts: each run that waits is asked about all the time."""


class StandingJobs:
    """`JobCluster` over another one, which asks Kubernetes too why a run does not start."""

    def __init__(
        self,
        inner: JobCluster,
        api: KubeApi,
        settings: KubeRaySettings,
        *,
        seconds: float = _SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner = inner
        self._api = api
        self._settings = settings
        self._sight = ClusterSight(api, settings)
        self.ends = EndedPods(api, settings)
        """What ended pods of the cluster; it looks from the first call on, for it can't be asked afterwards."""
        self._seconds = seconds
        self._clock = clock
        self._seen: RunTrouble | None = None
        self._look_time = 0.0
        """Not to be looked before."""

    async def submit(self, request: RunRequest) -> None:
        """Starts the run unless a run of that id is there."""
        await self._inner.submit(request)

    async def status(self, submission_id: str) -> RunReport:
        """The run's status; of a cluster that does not answer, as its pods don't run, that it has not begun."""
        try:
            report = await self._inner.status(submission_id)
        except Unavailable as error:
            if (trouble := await self._trouble()) is None:
                raise
            return RunReport(RunStatus.PENDING, str(error), trouble)
        if report.status is not RunStatus.PENDING:
            return report
        return RunReport(report.status, report.message, await self._trouble())

    async def stop(self, submission_id: str) -> None:
        """Ends the run's processes; a run that has ended or is unknown is no error."""
        await self._inner.stop(submission_id)

    async def log_tail(self, submission_id: str, max_bytes: int) -> str:
        """The end of what the run printed; empty if nothing is known."""
        return await self._inner.log_tail(submission_id, max_bytes)

    async def forget(self, submission_id: str) -> None:
        """Deletes the cluster's record of an ended run."""
        await self._inner.forget(submission_id)

    async def list(self) -> Sequence[str]:
        """The submission ids of all runs that have not ended."""
        self.ends.start()
        return await self._inner.list()

    async def close(self) -> None:
        """Ends the watches."""
        await self.ends.close()

    async def _trouble(self) -> RunTrouble | None:
        if self._clock() >= self._look_time:
            self._seen = await self._look()
            self._look_time = self._clock() + self._seconds
        return self._seen

    async def _look(self) -> RunTrouble | None:
        try:
            live = await self._api.get(RAY_CLUSTERS, trainers_name(self._settings))
        except Unavailable:
            return None
        return await self._sight.trouble(live) if live is not None else None
