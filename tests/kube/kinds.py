"""The kinds of objects that the stand-in keeps."""

from typing import Final

from trellis.server.clusters.kuberay.resources import (
    CONFIG_MAPS,
    EVENTS,
    NETWORK_POLICIES,
    PODS,
    RAY_CLUSTERS,
    RAY_JOBS,
    RAY_SERVICES,
    SECRETS,
    Resource,
)

JOBS: Final = Resource("batch", "v1", "jobs", "Job")
SERVICES: Final = Resource("", "v1", "services", "Service")
ALL: Final = (
    CONFIG_MAPS,
    EVENTS,
    JOBS,
    NETWORK_POLICIES,
    PODS,
    RAY_CLUSTERS,
    RAY_JOBS,
    RAY_SERVICES,
    SECRETS,
    SERVICES,
)
BY_PATH: Final = {(kind.group, kind.version, kind.plural): kind for kind in ALL}
BY_KIND: Final = {kind.kind: kind for kind in ALL}
CUSTOM: Final = frozenset({RAY_CLUSTERS, RAY_JOBS, RAY_SERVICES})
"""Those that a CustomResourceDefinition defines."""
