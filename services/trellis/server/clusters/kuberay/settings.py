"""What an operator chooses of the pods on Kubernetes; read from one file, which the Helm chart writes."""

import re
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

import yaml

KubernetesObject = Mapping[str, Any]
"""A piece of a pod in Kubernetes' own words, such as a toleration, which is handed on as it is."""
Settings = TypeVar("Settings")


_MAX_NAME: Final = 32
"""KubeRay cuts the names of services off beyond 50, which `-trainers-head-svc` must fit in."""
_LABEL: Final = re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])?")
_QUANTITY: Final = re.compile(r"[0-9]+(?:\.[0-9]+)?(?:[kMGTPE]|[KMGTPE]i)?")


class KubeRaySettingsError(ValueError):
    """The file of the settings is wrong; `str()` says where and what to do."""


def _check(holds: bool, sentence: str) -> None:
    if not holds:
        raise KubeRaySettingsError(sentence)


@dataclass(frozen=True, slots=True)
class SecretKey:
    """One value of a Secret; its content never passes through the server."""

    secret: str
    key: str


@dataclass(frozen=True, slots=True)
class PodSettings:
    """One kind of Ray pod."""

    image: str = ""
    """Empty for that of all pods."""
    cpus: float = 1.0
    memory: str = "4Gi"
    """Requested, and the limit."""
    gpus: int = 0
    accelerator: str = "nvidia.com/gpu"
    """The resource that counts GPUs."""
    shared_memory: str = ""
    """Of /dev/shm, for Ray's object store and NCCL; a part of `memory`. Empty for KubeRay's own choice."""
    scratch: str = "20Gi"
    """Of the folder for temporary files: the only place, beside mounted volumes, that a pod may write to."""
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[KubernetesObject, ...] = ()
    topology_spread_constraints: tuple[KubernetesObject, ...] = ()
    affinity: KubernetesObject = field(default_factory=dict)
    volumes: tuple[KubernetesObject, ...] = ()
    volume_mounts: tuple[KubernetesObject, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    secret_environment: Mapping[str, SecretKey] = field(default_factory=dict)
    """By variable: where its value comes from."""
    environment_from_secrets: tuple[str, ...] = ()
    """Secrets of which every key becomes a variable, such as the object store's credentials."""
    priority_class: str = ""
    runtime_class: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (("memory", self.memory), ("scratch", self.scratch), ("shared_memory", self.shared_memory)):
            amount = _QUANTITY.fullmatch(value) or (name == "shared_memory" and not value)
            _check(bool(amount), f"{name} must be an amount such as 16Gi, not {value!r}.")
        _check(self.cpus > 0, f"cpus must be more than 0, not {self.cpus:g}.")
        _check(self.gpus >= 0, f"gpus must not be negative, as {self.gpus} is.")


@dataclass(frozen=True, slots=True)
class WorkerGroup:
    """Pods of one kind, as many as are needed within bounds."""

    name: str
    pod: PodSettings
    min_replicas: int = 0
    max_replicas: int = 1

    def __post_init__(self) -> None:
        named = _LABEL.fullmatch(self.name) is not None and len(self.name) <= _MAX_NAME
        _check(named, f"name must be small letters, digits and dashes that begin with a letter, not {self.name!r}.")
        holds = 0 <= self.min_replicas <= self.max_replicas and self.max_replicas > 0
        _check(holds, f"max_replicas must be 1 or more, and min_replicas between 0 and {self.max_replicas}.")


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """A Ray cluster that stays: its head runs Ray's own processes and none of ours."""

    head: PodSettings = PodSettings(cpus=1.0, memory="4Gi")
    groups: tuple[WorkerGroup, ...] = ()
    idle_seconds: int = 300
    """A worker that does nothing for so long is removed, down to the least."""
    queue: str = ""
    """Kueue's LocalQueue that admits it; empty for none. Kueue takes a cluster that scales only where its feature
    ElasticJobsViaWorkloadSlices is on."""

    def __post_init__(self) -> None:
        names = [group.name for group in self.groups]
        _check(len(set(names)) == len(names), f"groups must have names of their own, not {', '.join(names)}.")

    @property
    def autoscales(self) -> bool:
        """Whether Ray adds and removes workers."""
        return any(group.min_replicas < group.max_replicas for group in self.groups)


@dataclass(frozen=True, slots=True)
class JobSettings:
    """The pods of a run that gets a Ray cluster of its own; CPUs and GPUs of its workers come from the job."""

    head: PodSettings = PodSettings(cpus=1.0, memory="4Gi")
    worker: PodSettings = PodSettings(memory="16Gi")
    submitter: PodSettings = PodSettings(cpus=0.1, memory="512Mi", scratch="1Gi")
    queue: str = ""
    """Kueue's LocalQueue that admits it; empty for none."""
    keep_seconds: int = 3600
    """So long the object of an ended run is kept if nobody deletes it; its pods are gone by then."""


@dataclass(frozen=True, slots=True)
class BaseCache:
    """Where base models lie on the nodes: `claim` names a PersistentVolumeClaim, or `host_path` a folder of each node."""

    path: str = "/bases"
    """Where it is mounted."""
    claim: str = ""
    host_path: str = ""
    """Which the Pod Security Standard "restricted" does not allow: the namespace must then be one that takes it."""

    def __post_init__(self) -> None:
        _check(bool(self.claim) != bool(self.host_path), "claim or host_path must be set, and not both.")
        _check(self.path.startswith("/"), f"path must begin with /, not {self.path!r}.")


@dataclass(frozen=True, slots=True)
class KubeRaySettings:
    """All of it."""

    namespace: str
    name: str
    """Of the installation: what the names of standing clusters begin with."""
    image: str
    """Of every pod whose own is empty."""
    ray_version: str
    """Of the image; KubeRay asks for it."""
    owner: str = ""
    """A ConfigMap that every object belongs to: Kubernetes deletes them with it, when the chart is uninstalled."""
    image_pull_policy: str = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    service_account: str = ""
    """Of pods that need no token; none is mounted."""
    head_service_account: str = ""
    """Of the heads of clusters that scale, whose autoscaler asks Kubernetes for workers."""
    user: int | None = 1000
    """User and group id that every container runs as; None where the cluster says it, as OpenShift does."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """On every object and pod."""
    auth: bool = True
    """Whether Ray asks for a token."""
    auth_secret: str = ""
    """Holds, as `auth_token`, that of the clusters that stay; the server is given it as TRELLIS_RAY_TOKEN_FILE. A run's own
    cluster gets one of its own, which KubeRay makes, and so do these where this is empty."""
    network_policies: bool = False
    """Whether a run with a cluster of its own gets a NetworkPolicy, by which its pods reach each other where nothing else
    lets them."""
    base_cache: BaseCache | None = None
    trainers: ClusterSettings | None = None
    """The cluster for shared trainers and exports; None where TRELLIS_RAY_DASHBOARD_URL names one that others keep."""
    engines: ClusterSettings | None = None
    """The cluster for engines; None where they run on the one of TRELLIS_RAY_DASHBOARD_URL too."""
    jobs: JobSettings = JobSettings()
    """Runs with workers of their own."""

    def __post_init__(self) -> None:
        named = _LABEL.fullmatch(self.name) is not None and len(self.name) <= _MAX_NAME
        what = f"small letters, digits and dashes that begin with a letter, {_MAX_NAME} at the most"
        _check(named, f"name must be {what}, not {self.name!r}: Kubernetes' services are named after it.")
        _check(
            bool(self.namespace and self.image and self.ray_version), "namespace, image and ray_version must be set."
        )
        _check(self.user is None or self.user > 0, "user must not be 0: no container runs as root.")
        for where, cluster in (("trainers", self.trainers), ("engines", self.engines)):
            _check(cluster is None or bool(cluster.groups), f"{where}.groups must not be empty: heads do no work.")
        lacks_secret = self.auth and self.engines is not None and not self.auth_secret
        _check(not lacks_secret, "auth_secret must be set where engines have a cluster and auth is not false.")


def read_kuberay_settings(path: Path) -> KubeRaySettings:
    """Read YAML or JSON whose keys are the fields' names. Raises KubeRaySettingsError."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise KubeRaySettingsError(f"{str(path)!r} can't be read: {error}") from None
    try:
        return _read(KubeRaySettings, values, "")
    except KubeRaySettingsError as error:
        raise KubeRaySettingsError(f"In {str(path)!r}: {error}") from None


def _read(kind: type[Settings], values: object, where: str) -> Settings:
    if not isinstance(values, Mapping):
        raise KubeRaySettingsError(f"{where or 'the file'} must be a mapping of names to values.")
    assert is_dataclass(kind)
    known, hints = {f.name: f for f in fields(kind)}, get_type_hints(kind)
    for name in values:
        if name not in known:
            message = f"{_at(where, str(name))} is not a setting. Known are {', '.join(sorted(known))}."
            raise KubeRaySettingsError(message)
    missing = [name for name, f in known.items() if name not in values and _is_required(f)]
    if missing:
        raise KubeRaySettingsError(f"{_at(where, missing[0])} must be set.")
    read = {name: _value(hints[name], value, _at(where, name)) for name, value in values.items()}
    try:
        return kind(**read)
    except KubeRaySettingsError as error:  # of a field of this very class
        raise KubeRaySettingsError(_at(where, str(error))) from None


def _is_required(one: "Field[Any]") -> bool:
    return one.default is MISSING and one.default_factory is MISSING


def _at(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _value(hint: Any, value: object, where: str) -> Any:
    members = get_args(hint)
    if type(None) in members:  # X | None
        return None if value is None else _value(members[0], value, where)
    if is_dataclass(hint):
        return _read(hint, value, where)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise KubeRaySettingsError(f"{where} must be a list.")
        return tuple(_value(members[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if get_origin(hint) is not None:  # a mapping
        if not isinstance(value, Mapping):
            raise KubeRaySettingsError(f"{where} must be a mapping of names to values.")
        return {str(key): _value(members[1], item, _at(where, str(key))) for key, item in value.items()}
    return _plain(hint, value, where)


def _plain(hint: Any, value: object, where: str) -> Any:
    if hint is Any:
        return value
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        names = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
        raise KubeRaySettingsError(f"{where} must be {names[hint]}, not {value!r}.")
    return value
