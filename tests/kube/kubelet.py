"""A node: the containers of its pods are nothing, but that of a run's head, whose Ray job is a real process."""

import asyncio
import base64
import os
import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.kube.events import say
from tests.kube.logs import Logs
from tests.kube.statuses import StatusError, overtaken
from tests.kube.store import Store, stamp
from trellis.server.clusters.kuberay.resources import PODS, SECRETS, Object, is_going, name_of, uid_of

_KILL_SECONDS = 0.3
"""In place of Kubernetes' thirty."""


class Kubelet:
    """Brings pods up, runs what belongs to them, and takes them down."""

    def __init__(self, store: Store, logs: Logs, folder: Path) -> None:
        self._store = store
        self._logs = logs
        self._folder = folder
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self.has_room = True
        """Whether pods find a node."""
        self.has_image = True
        """Whether images can be fetched."""

    def look(self, namespace: str) -> None:
        """One look at all pods."""
        for pod in self._store.list(PODS, namespace):
            if is_going(pod):
                continue
            with overtaken():
                self._bring_up(namespace, pod)

    async def take_down(self, namespace: str) -> None:
        """End what is being deleted."""
        for pod in self._store.list(PODS, namespace):
            if is_going(pod):
                await self.kill(uid_of(pod))
                with suppress(KeyError):
                    self._store.remove((PODS, namespace, name_of(pod)))

    def is_ready(self, pod: Object) -> bool:
        """Whether its containers run."""
        return bool(pod.get("status", {}).get("phase") == "Running") and not is_going(pod)

    async def run(self, pod: Object, printing: tuple[Object, str], command: str) -> asyncio.subprocess.Process:
        """A command in the pod's first container, with its environment; what it prints is another container's output."""
        path = self.output(*printing)
        with path.open("ab") as out:
            process = await asyncio.create_subprocess_exec(
                shutil.which("sh") or "/bin/sh",
                "-c",
                command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self._environment(pod),
                start_new_session=True,
            )
        self._processes[uid_of(pod)] = process
        return process

    def output(self, pod: Object, container: str) -> Path:
        """Where the container prints to."""
        path = self._folder / f"{uid_of(pod)}-{container}.log"
        path.touch()
        self._logs.files[uid_of(pod), container] = path
        return path

    def end(self, namespace: str, name: str, phase: str, reason: str = "", code: int = 0) -> None:
        """The pod's container ends by itself."""
        pod = self._store.get(PODS, namespace, name)
        said = {"exitCode": code, "reason": reason or ("Completed" if code == 0 else "Error"), "finishedAt": stamp()}
        state = _containers(pod, {"terminated": said}, ready=False)
        self._store.set_status(PODS, namespace, name, {"phase": phase, "containerStatuses": state})

    def processes(self) -> list[asyncio.subprocess.Process]:
        """Those that run."""
        return [process for process in self._processes.values() if process.returncode is None]

    async def kill(self, uid: str) -> None:
        """End the process of a pod, and all that it started."""
        process = self._processes.pop(uid, None)
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with suppress(TimeoutError):
                async with asyncio.timeout(_KILL_SECONDS):
                    await process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    async def close(self) -> None:
        """End all."""
        for uid in list(self._processes):
            await self.kill(uid)

    def _bring_up(self, namespace: str, pod: Object) -> None:
        status = pod.get("status", {})
        if status.get("phase", "Pending") != "Pending":
            return
        if not pod["spec"].get("nodeName"):
            self._place(namespace, pod)
            return
        waits = self._waits_for(namespace, pod)
        if waits is not None:
            if status.get("containerStatuses", [{}])[0].get("state") != {"waiting": waits}:
                state = _containers(pod, {"waiting": waits}, ready=False)
                self._store.set_status(PODS, namespace, name_of(pod), {"containerStatuses": state})
                say(self._store, namespace, pod, "Warning", "Failed", f"Error: {waits['message']}")
            return
        state = _containers(pod, {"running": {"startedAt": stamp()}}, ready=True)
        ready = [*status.get("conditions", []), _condition("Ready", "True")]
        change = {"phase": "Running", "containerStatuses": state, "conditions": ready}
        self._store.set_status(PODS, namespace, name_of(pod), change)

    def _place(self, namespace: str, pod: Object) -> None:
        if self.has_room:
            bound = {**pod, "spec": {**pod["spec"], "nodeName": "node-1"}}
            self._store.replace(PODS, namespace, name_of(pod), bound)
            conditions = [_condition("PodScheduled", "True")]
            self._store.set_status(PODS, namespace, name_of(pod), {"phase": "Pending", "conditions": conditions})
        elif not pod.get("status", {}).get("conditions"):
            message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
            conditions = [_condition("PodScheduled", "False", "Unschedulable", message)]
            self._store.set_status(PODS, namespace, name_of(pod), {"phase": "Pending", "conditions": conditions})
            say(self._store, namespace, pod, "Warning", "FailedScheduling", message)

    def _waits_for(self, namespace: str, pod: Object) -> dict[str, str] | None:
        container = pod["spec"]["containers"][0]
        if not self.has_image:
            return {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{container["image"]}"'}
        for name in _secrets(container):
            try:
                self._store.get(SECRETS, namespace, name)
            except StatusError:
                return {"reason": "CreateContainerConfigError", "message": f'secret "{name}" not found'}
        return None

    def _environment(self, pod: Object) -> dict[str, str]:
        container, namespace = pod["spec"]["containers"][0], pod["metadata"]["namespace"]
        found = {"PATH": os.environ["PATH"]}
        for name in _secrets(container):
            data: Mapping[str, str] = self._store.get(SECRETS, namespace, name).get("data", {})
            found.update({key: base64.b64decode(value).decode() for key, value in data.items()})
        found.update({one["name"]: one["value"] for one in container.get("env", []) if "value" in one})
        return found


def _secrets(container: Mapping[str, Any]) -> list[str]:
    return [one["secretRef"]["name"] for one in container.get("envFrom", []) if "secretRef" in one]


def _containers(pod: Object, state: Mapping[str, Any], *, ready: bool) -> list[dict[str, Any]]:
    return [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": ready,
            "restartCount": 0,
            "state": dict(state),
        }
        for container in pod["spec"]["containers"]
    ]


def _condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, str]:
    said = {"type": kind, "status": status, "lastTransitionTime": stamp()}
    return {**said, **({"reason": reason, "message": message} if reason else {})}
