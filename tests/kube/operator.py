"""KubeRay's operator, as far as a server sees it: RayJobs, RayClusters and RayServices come up, run and go.

A RayJob walks through the same states, by the same rules, as with the real one (ray-operator's rayjob_controller.go): one
step a look, the Ray cluster before the submitter, the submitter's end before that of the whole.
"""

import asyncio
import json
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.kube.events import say
from tests.kube.kinds import JOBS
from tests.kube.kubelet import Kubelet
from tests.kube.ray_clusters import look_at_clusters
from tests.kube.ray_services import look_at_services
from tests.kube.statuses import StatusError, overtaken
from tests.kube.store import Store
from trellis.server.clusters.kuberay.resources import (
    PODS,
    RAY_CLUSTERS,
    RAY_JOBS,
    Object,
    Resource,
    is_going,
    name_of,
    uid_of,
)

_FINALIZER: Final = "ray.io/rayjob-finalizer"
_QUEUE: Final = "kueue.x-k8s.io/queue-name"
_LOOK_SECONDS: Final = 0.05


class Operator:
    """Looks at everything whenever something changes. Switch it off to see what a server does alone."""

    def __init__(self, store: Store, kubelet: Kubelet, namespace: str = "trellis") -> None:
        self._store = store
        self._namespace = namespace
        self.kubelet = kubelet
        self.works = True
        self.kueue_admits = True
        """Whether what has a queue's label may start."""
        self.now: Callable[[], datetime] = lambda: datetime.now(UTC)
        self._runs: dict[str, tuple[asyncio.subprocess.Process, Path]] = {}
        self._task: asyncio.Task[None] | None = None
        self._ends = False
        self.started: list[str] = []
        """The job ids of all processes that were begun, in order."""
        store.before_create = self._kueue

    def start(self) -> None:
        """Begins."""
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Ends it, with all processes."""
        self._ends = True
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self.kubelet.close()

    def admit(self, name: str) -> None:
        """Kueue lets the RayJob in."""
        self._store.patch(RAY_JOBS, self._namespace, name, {"spec": {"suspend": False}})

    def hold(self, name: str) -> None:
        """Kueue takes its room back."""
        self._store.patch(RAY_JOBS, self._namespace, name, {"spec": {"suspend": True}})

    def _kueue(self, kind: Resource, one: Object) -> Object:
        if kind == RAY_JOBS and _QUEUE in one["metadata"].get("labels", {}) and not self.kueue_admits:
            one["spec"]["suspend"] = True
        return one

    async def _work(self) -> None:
        while not self._ends:
            if self.works:
                await self._look()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._store.changed()

    async def _look(self) -> None:
        for job in self._store.list(RAY_JOBS, self._namespace):
            with overtaken():
                await self._step(job)
        look_at_services(self._store, self._namespace)
        look_at_clusters(self._store, self.kubelet, self._namespace)
        self.kubelet.look(self._namespace)
        await self.kubelet.take_down(self._namespace)

    async def _step(self, job: Object) -> None:
        if is_going(job):
            left = [name for name in job["metadata"].get("finalizers", []) if name != _FINALIZER]
            self._store.patch(RAY_JOBS, self._namespace, name_of(job), {"metadata": {"finalizers": left or None}})
            return
        state = job.get("status", {}).get("jobDeploymentStatus", "")
        steps = {
            "": self._begin,
            "Initializing": self._initialize,
            "Running": self._watch,
            "Suspending": self._suspend,
            "Suspended": self._wait,
            "Complete": self._shut_down,
            "Failed": self._shut_down,
        }
        if state in steps:
            await steps[state](job)

    async def _begin(self, job: Object) -> None:
        wrong = _mistake(job)
        if wrong:
            say(
                self._store,
                self._namespace,
                job,
                "Warning",
                "InvalidRayJobSpec",
                f"The RayJob spec is invalid: {wrong}",
            )
            self._say(job, jobDeploymentStatus="ValidationFailed", reason="ValidationFailed", message=wrong)
            return
        if _FINALIZER not in job["metadata"].get("finalizers", []):
            finalizers = [*job["metadata"].get("finalizers", []), _FINALIZER]
            self._store.patch(RAY_JOBS, self._namespace, name_of(job), {"metadata": {"finalizers": finalizers}})
        cluster = f"{name_of(job)}-{secrets.token_hex(3)[:5]}"
        said = job.get("status", {})
        self._say(
            job,
            jobId=said.get("jobId") or job["spec"].get("jobId") or f"{name_of(job)}-{secrets.token_hex(3)[:5]}",
            rayClusterName=said.get("rayClusterName") or cluster,
            jobStatus="",
            jobDeploymentStatus="Initializing",
            startTime=self._stamp(),
        )

    async def _initialize(self, job: Object) -> None:
        if self._is_held(job) or self._is_overdue(job):
            return
        cluster = self._cluster(job)
        if cluster.get("status", {}).get("state") != "ready":
            return
        address = f"{name_of(cluster)}-head-svc.{self._namespace}.svc.cluster.local:8265"
        self._make_submitter(job)
        self._say(job, dashboardURL=address, jobDeploymentStatus="Running")

    async def _watch(self, job: Object) -> None:
        if self._is_held(job) or self._is_overdue(job):
            return
        submitter = self._submitter(job)
        if submitter is None:
            return
        if not self.kubelet.is_ready(submitter):
            if submitter.get("status", {}).get("phase") == "Succeeded":
                self._finish(job)
            return
        run = self._runs.get(uid_of(job))
        if run is None:
            await self._run(job, submitter)
            self._say(job, jobStatus="RUNNING", message="Job is currently running.")
        elif run[0].returncode is not None:
            self._say(job, **_verdict(run[0].returncode, run[1]))
            self.kubelet.end(self._namespace, name_of(submitter), "Succeeded")

    async def _suspend(self, job: Object) -> None:
        self._delete_cluster(job)
        self._runs.pop(uid_of(job), None)
        with suppress(StatusError):
            self._store.delete(JOBS, self._namespace, name_of(job))
        if self._submitter(job) is None and not self._has_cluster(job):
            gone = dict.fromkeys(("jobId", "rayClusterName", "dashboardURL", "message", "reason", "jobStatus"), "")
            self._say(job, **gone, jobDeploymentStatus="Suspended")

    async def _wait(self, job: Object) -> None:
        if not job["spec"].get("suspend"):
            self._say(job, jobStatus="", jobDeploymentStatus="")

    async def _shut_down(self, job: Object) -> None:
        ended = datetime.fromisoformat(job["status"]["endTime"])
        seconds = job["spec"].get("ttlSecondsAfterFinished", 0)
        if job["spec"].get("shutdownAfterJobFinishes") and (self.now() - ended).total_seconds() >= seconds:
            self._delete_cluster(job)
            submitter = self._submitter(job)
            if submitter is not None and self.kubelet.is_ready(submitter):
                # Its `ray job logs --follow` loses the Ray cluster; what it has printed stays.
                self.kubelet.end(self._namespace, name_of(submitter), "Failed", code=1)

    def _finish(self, job: Object) -> None:
        failed = job["status"]["jobStatus"] == "FAILED"
        state = (
            {"jobDeploymentStatus": "Failed", "reason": "AppFailed"} if failed else {"jobDeploymentStatus": "Complete"}
        )
        self._say(job, **state, endTime=self._stamp())

    def _is_held(self, job: Object) -> bool:
        if job["spec"].get("suspend"):
            self._say(job, jobDeploymentStatus="Suspending")
            return True
        return False

    def _is_overdue(self, job: Object) -> bool:
        seconds = job["spec"].get("activeDeadlineSeconds")
        began = datetime.fromisoformat(job["status"]["startTime"])
        if seconds is None or (self.now() - began).total_seconds() < seconds:
            return False
        message = f"The RayJob has passed the activeDeadlineSeconds. ActiveDeadlineSeconds: {seconds}"
        state = {"jobDeploymentStatus": "Failed", "reason": "DeadlineExceeded"}
        self._say(job, **state, message=message, endTime=self._stamp())
        return True

    def _cluster(self, job: Object) -> Object:
        name = job["status"]["rayClusterName"]
        with suppress(StatusError):
            return self._store.get(RAY_CLUSTERS, self._namespace, name)
        origin = {"ray.io/originated-from-cr-name": name_of(job), "ray.io/originated-from-crd": "RayJob"}
        metadata = {
            "name": name,
            "labels": {**job["metadata"].get("labels", {}), **origin},
            "annotations": job["metadata"].get("annotations", {}),
            "ownerReferences": [_owner(job)],
        }
        body = {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "metadata": metadata,
            "spec": job["spec"]["rayClusterSpec"],
        }
        return self._store.create(RAY_CLUSTERS, self._namespace, body)

    def _has_cluster(self, job: Object) -> bool:
        name = job["status"].get("rayClusterName")
        return any(name_of(one) == name for one in self._store.list(RAY_CLUSTERS, self._namespace))

    def _delete_cluster(self, job: Object) -> None:
        with suppress(StatusError):
            self._store.delete(RAY_CLUSTERS, self._namespace, job["status"].get("rayClusterName", ""))

    def _make_submitter(self, job: Object) -> None:
        template = json.loads(json.dumps(job["spec"]["submitterPodTemplate"]))
        metadata: dict[str, Any] = {"name": name_of(job), "ownerReferences": [_owner(job)]}
        spec = {"backoffLimit": job["spec"].get("submitterConfig", {}).get("backoffLimit", 2), "template": template}
        body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}
        made = self._store.create(JOBS, self._namespace, body)
        if self._store.makes_pods_of_jobs:
            return
        labels = {**template["metadata"].get("labels", {}), "job-name": name_of(job)}
        pod_metadata = {
            "name": f"{name_of(job)}-{secrets.token_hex(3)[:5]}",
            "labels": {**labels, "batch.kubernetes.io/job-name": name_of(job)},
            "ownerReferences": [_owner(made)],
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": pod_metadata, "spec": template["spec"]}
        self._store.create(PODS, self._namespace, pod)

    def _submitter(self, job: Object) -> Object | None:
        wanted = name_of(job)
        pods = self._store.list(PODS, self._namespace)
        return next((pod for pod in pods if pod["metadata"].get("labels", {}).get("job-name") == wanted), None)

    async def _run(self, job: Object, submitter: Object) -> None:
        cluster = job["status"]["rayClusterName"]
        head = next(
            pod
            for pod in self._store.list(PODS, self._namespace)
            if pod["metadata"]["labels"].get("ray.io/cluster") == cluster
            and pod["metadata"]["labels"].get("ray.io/node-type") == "head"
        )
        container = submitter["spec"]["containers"][0]["name"]
        path = self.kubelet.output(submitter, container)
        path.write_text(f"Running entrypoint for job {job['status']['jobId']}: {job['spec']['entrypoint']}\n")
        self.started.append(job["status"]["jobId"])
        process = await self.kubelet.run(head, (submitter, container), job["spec"]["entrypoint"])
        self._runs[uid_of(job)] = (process, path)

    def _say(self, job: Object, **said: Any) -> None:
        self._store.set_status(RAY_JOBS, self._namespace, name_of(job), said)

    def _stamp(self) -> str:
        # With the parts of a second, which the real one leaves out: tests wait for less.
        return self.now().isoformat().replace("+00:00", "Z")


def _mistake(job: Object) -> str:
    spec = job["spec"]
    if len(name_of(job)) > 47:
        return "RayJob name should be no more than 47 characters"
    if spec.get("suspend") and not spec.get("shutdownAfterJobFinishes"):
        return "a RayJob with shutdownAfterJobFinishes set to false is not allowed to be suspended"
    if spec.get("activeDeadlineSeconds", 1) <= 0:
        return "activeDeadlineSeconds must be a positive integer"
    return ""


def _verdict(code: int, output: Path) -> dict[str, str]:
    if code == 0:
        return {"jobStatus": "SUCCEEDED", "message": "Job finished successfully."}
    tail = output.read_text(encoding="utf-8", errors="replace")[-20_000:]
    message = (
        f"Job entrypoint command failed with exit code {code}, last available logs (truncated to 20,000 chars):\n{tail}"
    )
    return {"jobStatus": "FAILED", "message": message}


def _owner(one: Object) -> dict[str, Any]:
    named = {"apiVersion": one["apiVersion"], "kind": one["kind"], "name": name_of(one), "uid": uid_of(one)}
    return {**named, "controller": True, "blockOwnerDeletion": True}
