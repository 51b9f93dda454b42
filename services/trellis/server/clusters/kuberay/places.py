"""Where clusters on Kubernetes are reached; pure."""

from dataclasses import dataclass
from typing import Final

from trellis.server.clusters.kuberay.manifests import engines_name, trainers_name
from trellis.server.clusters.kuberay.settings import KubeRaySettings, KubeRaySettingsError

_DASHBOARD_PORT: Final = 8265


@dataclass(frozen=True, slots=True)
class Places:
    """The addresses of KubeRay's services, but for what the server's own settings say."""

    jobs_dashboard: str
    engines_dashboard: str
    serve_host: str


def places_of(settings: KubeRaySettings, dashboard_url: str = "", serve_host: str = "") -> Places:
    """Where jobs are submitted, and engines are seen and called. Raises KubeRaySettingsError.

    Without a cluster of their own engines are on the one of the jobs, whose head's service has Serve's port too.
    """
    if settings.trainers is None and not dashboard_url:
        message = "trainers must be set, or TRELLIS_RAY_DASHBOARD_URL to a Ray cluster for shared trainers and exports."
        raise KubeRaySettingsError(message)
    jobs = dashboard_url or _dashboard(settings, trainers_name(settings))
    if settings.engines is not None:
        name = engines_name(settings)
        return Places(jobs, _dashboard(settings, name), serve_host or _service(settings, f"{name}-serve-svc"))
    if settings.trainers is None and not serve_host:
        message = "TRELLIS_SERVE_HOST must be set: engines run on the cluster of TRELLIS_RAY_DASHBOARD_URL."
        raise KubeRaySettingsError(message)
    return Places(jobs, jobs, serve_host or _service(settings, f"{trainers_name(settings)}-head-svc"))


def _dashboard(settings: KubeRaySettings, cluster: str) -> str:
    return f"http://{_service(settings, f'{cluster}-head-svc')}:{_DASHBOARD_PORT}"


def _service(settings: KubeRaySettings, name: str) -> str:
    return f"{name}.{settings.namespace}.svc"
