"""The kinds of objects that the server reads or makes, and what it may do with each: the Role of the chart says the same."""

from dataclasses import dataclass
from typing import Any, Final

Object = dict[str, Any]
"""One of Kubernetes' objects, as the API gives it."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object that lives in a namespace."""

    group: str
    """Empty for Kubernetes' core."""
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """As it stands in the objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str, name: str = "") -> str:
        """Of the collection, or of one object."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return f"{root}/namespaces/{namespace}/{self.plural}" + (f"/{name}" if name else "")


RAY_JOBS: Final = Resource("ray.io", "v1", "rayjobs", "RayJob")
RAY_CLUSTERS: Final = Resource("ray.io", "v1", "rayclusters", "RayCluster")
RAY_SERVICES: Final = Resource("ray.io", "v1", "rayservices", "RayService")
NETWORK_POLICIES: Final = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
SECRETS: Final = Resource("", "v1", "secrets", "Secret")
CONFIG_MAPS: Final = Resource("", "v1", "configmaps", "ConfigMap")
PODS: Final = Resource("", "v1", "pods", "Pod")
EVENTS: Final = Resource("", "v1", "events", "Event")

PERMISSIONS: Final[frozenset[tuple[str, str, str]]] = frozenset(
    (group, resource, verb)
    for group, resource, verbs in (
        ("ray.io", "rayjobs", "create get list watch patch delete"),
        ("ray.io", "rayclusters", "create get patch"),
        ("ray.io", "rayservices", "create get patch"),
        ("networking.k8s.io", "networkpolicies", "create"),
        ("", "secrets", "create"),
        ("", "configmaps", "get"),
        ("", "pods", "list watch"),
        ("", "pods/log", "get"),
        ("", "events", "list watch"),
    )
    for verb in verbs.split()
)
"""Group, resource and verb of everything that the server does in its namespace; nothing else is granted to it."""


def name_of(one: Object) -> str:
    """The object's name."""
    return str(one["metadata"]["name"])


def uid_of(one: Object) -> str:
    """The object's own id, which another of the same name has not."""
    return str(one["metadata"].get("uid", ""))


def version_of(one: Object) -> str:
    """The object's resourceVersion."""
    return str(one["metadata"].get("resourceVersion", ""))


def is_going(one: Object) -> bool:
    """Whether its deletion has begun."""
    return bool(one["metadata"].get("deletionTimestamp"))
