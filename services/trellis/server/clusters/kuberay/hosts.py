"""Builds what runs jobs and engines on Kubernetes."""

from dataclasses import replace
from pathlib import Path

from trellis.server.app.hosts import HostEnds, JobCluster, StandingClusters
from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.connection import Connect, in_cluster_or_kubeconfig
from trellis.server.clusters.kuberay.engines import RayServiceApplications
from trellis.server.clusters.kuberay.jobs import KubeRayCluster
from trellis.server.clusters.kuberay.no_cluster import NoCluster
from trellis.server.clusters.kuberay.places import Places
from trellis.server.clusters.kuberay.settings import KubeRaySettings
from trellis.server.clusters.kuberay.standing import KubeRayStanding
from trellis.server.clusters.kuberay.standing_jobs import StandingJobs
from trellis.server.clusters.ray import RayJobCluster
from trellis.server.clusters.serve import EngineSettings, ServeCluster
from trellis.server.clusters.serve_applications import DashboardApplications


class KubeRayHosts:
    """The jobs' and the engines' clusters, over one client of Kubernetes' API."""

    def __init__(
        self,
        settings: KubeRaySettings,
        places: Places,
        engines: EngineSettings,
        token: str | Path = "",
        connect: Connect = in_cluster_or_kubeconfig,
    ) -> None:
        self._api = KubeApi(settings.namespace, connect)
        self._ray = RayJobCluster(places.jobs_dashboard, token)
        # Neither waits for the other: a Ray cluster that does not answer keeps no RayJob from its start or its end.
        standing_jobs = StandingJobs(self._ray, self._api, settings) if settings.trainers is not None else None
        self._standing_jobs = standing_jobs
        self.cluster: JobCluster = standing_jobs or self._ray
        self.ends: HostEnds | None = standing_jobs.ends if standing_jobs else None
        self.attempts = KubeRayCluster(self._api, settings, NoCluster())
        dashboard = DashboardApplications(places.engines_dashboard, token)
        declared = dashboard if settings.engines is None else RayServiceApplications(self._api, settings, dashboard)
        reached = replace(engines, http_host=places.serve_host)
        self.engines = ServeCluster(places.engines_dashboard, reached, applications=declared)
        self.standing: StandingClusters = KubeRayStanding(self._api, settings)

    async def close(self) -> None:
        """Closes the connections."""
        await self.engines.close()
        await self.attempts.close()
        if self._standing_jobs is not None:
            await self._standing_jobs.close()
        await self._ray.close()
        await self._api.close()
