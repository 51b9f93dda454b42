"""The "restricted" Pod Security Standard, written out: what an admission by that level would refuse of a pod."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

_VOLUMES: Final = frozenset({
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"),
    "name",
})  # fmt: skip
_SECCOMP: Final = frozenset({"RuntimeDefault", "Localhost"})


def restricted_errors(spec: Mapping[str, Any]) -> list[str]:
    """What forbids a pod of this spec under the level "restricted"; nothing if it is allowed."""
    return [*_of_pod(spec), *(error for container in _containers(spec) for error in _of_container(spec, container))]


def _of_pod(spec: Mapping[str, Any]) -> Iterator[str]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(name):
            yield f"{name} is not allowed"
    for volume in spec.get("volumes", ()):
        for kind in volume.keys() - _VOLUMES:
            yield f"the volume {volume['name']!r} is of the kind {kind}, which is not allowed"
    context = spec.get("securityContext", {})
    if context.get("sysctls"):
        yield "sysctls are not allowed"
    if context.get("runAsUser") == 0:
        yield "runAsUser 0 is not allowed"


def _containers(spec: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for name in ("initContainers", "containers", "ephemeralContainers"):
        yield from spec.get(name, ())


def _of_container(spec: Mapping[str, Any], container: Mapping[str, Any]) -> Iterator[str]:
    of_pod, own = spec.get("securityContext", {}), container.get("securityContext", {})
    where = f"the container {container['name']!r}"
    if own.get("privileged"):
        yield f"{where} is privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{where} allows the escalation of privileges"
    if "ALL" not in own.get("capabilities", {}).get("drop", ()):
        yield f"{where} does not drop all capabilities"
    if set(own.get("capabilities", {}).get("add", ())) - {"NET_BIND_SERVICE"}:
        yield f"{where} adds capabilities"
    if not own.get("runAsNonRoot", of_pod.get("runAsNonRoot")):
        yield f"{where} may run as root"
    if own.get("runAsUser") == 0:
        yield f"{where} runs as root"
    if own.get("seccompProfile", of_pod.get("seccompProfile", {})).get("type") not in _SECCOMP:
        yield f"{where} has no seccomp profile"
    if own.get("procMount", "Default") != "Default":
        yield f"{where} unmasks /proc"
    if any(port.get("hostPort") for port in container.get("ports", ())):
        yield f"{where} has a port of the host"
