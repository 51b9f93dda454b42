"""Pods of Ray clusters: restricted, without a token unless they need one, and writing nowhere but where they may."""

from collections.abc import Mapping
from typing import Any, Final

from trellis.server.clusters.kuberay.settings import KubeRaySettings, PodSettings

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
INSTANCE: Final = "app.kubernetes.io/instance"
COMPONENT: Final = "app.kubernetes.io/component"
"""`trainers`, `engines`, `job`: what the NetworkPolicies select by."""
RUN: Final = "trellis.dev/run"
"""The run's one name, of its RayJob; what its NetworkPolicy selects by."""
SCRATCH: Final = "/tmp"  # noqa: S108 - a volume of the pod's own
SCRATCH_MOUNT: Final[Mapping[str, Any]] = {"name": "scratch", "mountPath": SCRATCH}


def pod_template(
    settings: KubeRaySettings,
    pod: PodSettings,
    component: str,
    *,
    container: str,
    environment_secret: str = "",
    scales: bool = False,
    run: str = "",
) -> dict[str, Any]:
    """The template of a Ray pod with one container; Ray's own arguments are KubeRay's to add.

    `environment_secret` names a Secret that may be made only after the pod, which waits for it. `run` names the run that the
    pod is for, if it is for one. Only a head that `scales` its cluster gets a token of Kubernetes; where no account is named
    for it, KubeRay makes one.
    """
    account = settings.head_service_account if scales else settings.service_account
    spec: dict[str, Any] = {
        "automountServiceAccountToken": scales,
        "securityContext": {
            "runAsNonRoot": True,
            **run_as(settings, "runAsUser", "runAsGroup", "fsGroup"),
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(settings, pod, container, environment_secret)],
        "volumes": _volumes(settings, pod),
    }
    chosen = {
        "serviceAccountName": account,
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
        "nodeSelector": dict(pod.node_selector),
        "tolerations": [dict(one) for one in pod.tolerations],
        "topologySpreadConstraints": [dict(one) for one in pod.topology_spread_constraints],
        "affinity": dict(pod.affinity),
        "priorityClassName": pod.priority_class,
        "runtimeClassName": pod.runtime_class,
    }
    spec.update({name: value for name, value in chosen.items() if value})
    metadata: dict[str, Any] = {"labels": {**pod.labels, **labels(settings, component, run)}}
    if pod.annotations:
        metadata["annotations"] = dict(pod.annotations)
    return {"metadata": metadata, "spec": spec}


def labels(settings: KubeRaySettings, component: str, run: str = "") -> dict[str, str]:
    """What every object and pod of this installation carries; pods of a run say of which."""
    own = {MANAGED_BY: "trellis", INSTANCE: settings.name, COMPONENT: component}
    return {**settings.labels, **own, **({RUN: run} if run else {})}


def run_as(settings: KubeRaySettings, *names: str) -> dict[str, int]:
    """The parts of a security context that name a user or group; nothing where the cluster says it."""
    return {} if settings.user is None else dict.fromkeys(names, settings.user)


def _container(settings: KubeRaySettings, pod: PodSettings, name: str, environment_secret: str) -> dict[str, Any]:
    amounts: dict[str, str] = {"cpu": f"{pod.cpus:g}", "memory": pod.memory}
    if pod.gpus:
        amounts[pod.accelerator] = str(pod.gpus)
    secrets = (*pod.environment_from_secrets, *([environment_secret] if environment_secret else ()))
    container = {
        "name": name,
        "image": pod.image or settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "resources": {"requests": amounts, "limits": dict(amounts)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "env": _environment(settings, pod),
        "volumeMounts": _mounts(settings, pod),
    }
    if secrets:
        container["envFrom"] = [{"secretRef": {"name": secret}} for secret in secrets]
    return container


def _environment(settings: KubeRaySettings, pod: PodSettings) -> list[dict[str, Any]]:
    plain = {"HOME": SCRATCH, "RAY_USAGE_STATS_ENABLED": "0"}
    if settings.base_cache is not None:
        plain["TRELLIS_BASE_CACHE"] = settings.base_cache.path
    by_reference = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": key.secret, "key": key.key}}}
        for name, key in pod.secret_environment.items()
    ]
    return [*({"name": name, "value": value} for name, value in {**plain, **pod.environment}.items()), *by_reference]


def _volumes(settings: KubeRaySettings, pod: PodSettings) -> list[Mapping[str, Any]]:
    volumes: list[Mapping[str, Any]] = [{"name": "scratch", "emptyDir": {"sizeLimit": pod.scratch}}]
    if pod.shared_memory:
        volumes.append({"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": pod.shared_memory}})
    cache = settings.base_cache
    if cache is not None and cache.claim:
        volumes.append({"name": "bases", "persistentVolumeClaim": {"claimName": cache.claim, "readOnly": True}})
    elif cache is not None:
        volumes.append({"name": "bases", "hostPath": {"path": cache.host_path, "type": "DirectoryOrCreate"}})
    return [*volumes, *(dict(volume) for volume in pod.volumes)]


def _mounts(settings: KubeRaySettings, pod: PodSettings) -> list[Mapping[str, Any]]:
    mounts: list[Mapping[str, Any]] = [SCRATCH_MOUNT]
    if pod.shared_memory:
        mounts.append({"name": "shared-memory", "mountPath": "/dev/shm"})  # noqa: S108 - a volume of the pod's own
    if settings.base_cache is not None:
        mounts.append({"name": "bases", "mountPath": settings.base_cache.path, "readOnly": True})
    return [dict(mount) for mount in (*mounts, *pod.volume_mounts)]
