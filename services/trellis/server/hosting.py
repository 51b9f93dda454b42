"""Chooses where jobs and engines run: a Ray cluster that is there, or KubeRay's on Kubernetes."""

from pathlib import Path
from typing import Protocol

from trellis.server.app.hosts import EngineHost, HostEnds, JobCluster, StandingClusters
from trellis.server.clusters.kuberay.places import places_of
from trellis.server.clusters.kuberay.settings import KubeRaySettingsError, read_kuberay_settings
from trellis.server.clusters.ray import RayJobCluster
from trellis.server.clusters.serve import EngineSettings, ServeCluster
from trellis.server.config import ConfigError, ServerConfig


class Hosts(Protocol):
    """Where jobs and engines run."""

    @property
    def cluster(self) -> JobCluster:
        """Of shared trainers and exports."""
        ...

    @property
    def attempts(self) -> JobCluster:
        """Of attempts with workers of their own."""
        ...

    @property
    def engines(self) -> EngineHost:
        """Of engines."""
        ...

    @property
    def standing(self) -> StandingClusters | None:
        """What this server has to keep for them; None where others do."""
        ...

    @property
    def ends(self) -> HostEnds | None:
        """What ended the hosts of shared trainers; None where nobody says."""
        ...

    async def close(self) -> None:
        """Closes the connections."""
        ...


class RayHosts:
    """One Ray cluster, that others keep."""

    standing: StandingClusters | None = None
    ends: HostEnds | None = None

    def __init__(self, dashboard_url: str, engines: EngineSettings, token: str | Path) -> None:
        self.engines = ServeCluster(dashboard_url, engines, token)
        self.cluster = self.attempts = RayJobCluster(dashboard_url, token)

    async def close(self) -> None:
        """Closes the connections."""
        await self.engines.close()
        await self.cluster.close()


def hosts_for(config: ServerConfig, engines: EngineSettings) -> Hosts:
    """What the settings say. Raises ConfigError."""
    token = config.ray_token_file or ""
    if config.kuberay_file is None:
        if config.ray_token_file is not None and not config.ray_token_file.is_file():
            raise ConfigError(f"TRELLIS_RAY_TOKEN_FILE names {str(config.ray_token_file)!r}, which is not there.")
        return RayHosts(config.ray_dashboard_url, engines, token)
    try:
        settings = read_kuberay_settings(config.kuberay_file)
        places = places_of(settings, config.ray_dashboard_url, config.serve_host)
    except KubeRaySettingsError as error:
        raise ConfigError(f"Of TRELLIS_KUBERAY_FILE, {error}") from None
    # Kubernetes' client takes its time and memory to load, which a server on one machine has no use for.
    from trellis.server.clusters.kuberay.hosts import KubeRayHosts  # noqa: PLC0415

    return KubeRayHosts(settings, places, engines, token)
