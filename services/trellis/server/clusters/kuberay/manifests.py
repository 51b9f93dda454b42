"""The objects that KubeRay works on, made from typed settings; pure."""

import hashlib
import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from trellis.server.app.hosts import RunRequest
from trellis.server.clusters.kuberay.pods import (
    COMPONENT,
    INSTANCE,
    SCRATCH,
    SCRATCH_MOUNT,
    labels,
    pod_template,
    run_as,
)
from trellis.server.clusters.kuberay.settings import ClusterSettings, KubeRaySettings

API_VERSION: Final = "ray.io/v1"
RUN: Final = "trellis.dev/run"
"""The annotation with the run's submission id."""
DIGEST: Final = "trellis.dev/settings-digest"
"""The annotation by which a standing object that is out of date is known."""
_KUEUE: Final = "kueue.x-k8s.io/queue-name"
_MAX_NAME: Final = 47
"""KubeRay's bound on the names of RayJobs and RayServices: it makes longer ones of them."""
_LAST_WORDS_SECONDS: Final = 30
_NAME: Final = re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])?")

OwnerReference = Mapping[str, Any]


def job_name(submission_id: str) -> str:
    """The one name of a run's RayJob and of its Secret, so that making either twice is harmless."""
    if len(submission_id) <= _MAX_NAME and _NAME.fullmatch(submission_id):
        return submission_id
    return f"trellis-{hashlib.sha256(submission_id.encode()).hexdigest()[:32]}"


def ray_job(settings: KubeRaySettings, request: RunRequest, owner: OwnerReference | None = None) -> dict[str, Any]:
    """A run with a Ray cluster of its own, gone when it ends. Its environment comes from `run_secret`, not from here."""
    jobs = settings.jobs
    name = job_name(request.submission_id)
    head = replace(jobs.head, cpus=max(jobs.head.cpus, request.cpus), gpus=max(jobs.head.gpus, math.ceil(request.gpus)))
    spec: dict[str, Any] = {
        "entrypoint": "exec " + shlex.join(request.entrypoint),
        "jobId": request.submission_id,
        "metadata": request.metadata,
        "submissionMode": "K8sJobMode",  # the submitter's log outlives the Ray cluster
        "backoffLimit": 0,  # whether a run is tried again is decided elsewhere, with a new name
        "submitterConfig": {"backoffLimit": 0},
        "shutdownAfterJobFinishes": True,
        # For so long its pods say what ended them; who asks that forgets the run, and takes them away sooner.
        "ttlSecondsAfterFinished": _LAST_WORDS_SECONDS,
        "submitterPodTemplate": _submitter(settings, name),
        "rayClusterSpec": {
            "rayVersion": settings.ray_version,
            "enableInTreeAutoscaling": False,
            "headGroupSpec": {
                # Only what reserves nothing runs there, unless the run itself wants CPUs.
                "rayStartParams": {"num-cpus": str(math.ceil(request.cpus)), "dashboard-host": "0.0.0.0"},
                "template": pod_template(
                    settings, head, "job", container="ray-head", environment_secret=name, run=name
                ),
            },
            "workerGroupSpecs": _gang(settings, request, name),
            **_auth(settings, ""),
        },
    }
    return _object("RayJob", settings, name, "job", spec, owner, queue=jobs.queue, run=request.submission_id)


def run_secret(settings: KubeRaySettings, request: RunRequest, ray_job_uid: str) -> dict[str, Any]:
    """A run's environment. It belongs to the RayJob, whose pods wait for it, and goes with it."""
    name = job_name(request.submission_id)
    owner = {"apiVersion": API_VERSION, "kind": "RayJob", "name": name, "uid": ray_job_uid, "controller": False}
    metadata = {"name": name, "labels": labels(settings, "job"), "ownerReferences": [owner]}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "immutable": True,
        "stringData": request.environment,
    }


def run_network_policy(settings: KubeRaySettings, request: RunRequest, ray_job_uid: str) -> dict[str, Any]:
    """Lets the pods of a run reach each other, and no others; it belongs to the RayJob, and is there before the Secret.

    Where they may go besides is the chart's to say: policies only ever add to each other.
    """
    name = job_name(request.submission_id)
    owner = {"apiVersion": API_VERSION, "kind": "RayJob", "name": name, "uid": ray_job_uid, "controller": False}
    own = {"podSelector": {"matchLabels": {INSTANCE: settings.name, COMPONENT: "job", RUN: name}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "labels": labels(settings, "job", name), "ownerReferences": [owner]},
        "spec": {**own, "policyTypes": ["Ingress", "Egress"], "ingress": [{"from": [own]}], "egress": [{"to": [own]}]},
    }


def trainers_cluster(
    settings: KubeRaySettings, cluster: ClusterSettings, owner: OwnerReference | None = None
) -> dict[str, Any]:
    """The standing RayCluster for shared trainers and exports.

    Other settings of its pods, such as a new image, end what runs there, which goes on from its checkpoints: a head of one
    version and workers of another would not understand each other.
    """
    spec = {**_cluster_spec(settings, cluster, "trainers"), "upgradeStrategy": {"type": "Recreate"}}
    return _object("RayCluster", settings, trainers_name(settings), "trainers", spec, owner, queue=cluster.queue)


def engines_service(
    settings: KubeRaySettings, cluster: ClusterSettings, serve_config: str, owner: OwnerReference | None = None
) -> dict[str, Any]:
    """The RayService for engines; `serve_config` is Serve's configuration of the applications, as YAML or JSON."""
    spec = {
        "serveConfigV2": serve_config,
        "excludeHeadPodFromServeSvc": True,
        # A cluster with new settings takes over only when its engines answer, and the old one ends its answers.
        "upgradeStrategy": {"type": "NewCluster"},
        "rayClusterDeletionDelaySeconds": 120,
        "rayClusterConfig": _cluster_spec(settings, cluster, "engines"),
    }
    return _object("RayService", settings, engines_name(settings), "engines", spec, owner, queue=cluster.queue)


def trainers_name(settings: KubeRaySettings) -> str:
    """Of the RayCluster for shared trainers."""
    return f"{settings.name}-trainers"


def engines_name(settings: KubeRaySettings) -> str:
    """Of the RayService for engines."""
    return f"{settings.name}-engines"


def selector(settings: KubeRaySettings) -> str:
    """The label selector of all objects and pods of this installation."""
    return f"{INSTANCE}={settings.name}"


def _cluster_spec(settings: KubeRaySettings, cluster: ClusterSettings, component: str) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "rayVersion": settings.ray_version,
        "enableInTreeAutoscaling": cluster.autoscales,
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"},
            "template": pod_template(
                settings, cluster.head, component, container="ray-head", scales=cluster.autoscales
            ),
        },
        "workerGroupSpecs": [
            {
                "groupName": group.name,
                "replicas": group.min_replicas,
                "minReplicas": group.min_replicas,
                "maxReplicas": group.max_replicas,
                "rayStartParams": {},
                "template": pod_template(settings, group.pod, component, container="ray-worker"),
            }
            for group in cluster.groups
        ],
        **_auth(settings, settings.auth_secret),
    }
    if cluster.autoscales:
        spec["autoscalerOptions"] = _autoscaler(settings, cluster)
    return spec


def _autoscaler(settings: KubeRaySettings, cluster: ClusterSettings) -> dict[str, Any]:
    """Of the container that KubeRay adds to the head's pod, from the same image."""
    return {
        "version": "v2",
        "idleTimeoutSeconds": cluster.idle_seconds,
        "imagePullPolicy": settings.image_pull_policy,
        "resources": {
            "requests": {"cpu": "200m", "memory": "512Mi"},
            "limits": {"cpu": "500m", "memory": "512Mi"},
        },
        "env": [{"name": "HOME", "value": SCRATCH}],
        "volumeMounts": [dict(SCRATCH_MOUNT)],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            **run_as(settings, "runAsUser"),
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }


def _gang(settings: KubeRaySettings, request: RunRequest, secret: str) -> list[dict[str, Any]]:
    if request.workers == 0:
        return []
    chosen = settings.jobs.worker
    pod = replace(chosen, cpus=max(request.worker_cpus, 0.1), gpus=math.ceil(request.worker_gpus))
    template = pod_template(settings, pod, "job", container="ray-worker", environment_secret=secret, run=secret)
    count = request.workers
    return [
        {
            "groupName": "workers",
            "replicas": count,
            "minReplicas": count,
            "maxReplicas": count,
            # Ray counts the CPUs of a node, as Kubernetes its GPUs, in whole ones: a part of one is one.
            "rayStartParams": {"num-cpus": str(max(1, math.ceil(request.worker_cpus)))},
            "template": template,
        }
    ]


def _submitter(settings: KubeRaySettings, run: str) -> dict[str, Any]:
    # It only waits for the run and repeats what that prints.
    template = pod_template(
        replace(settings, base_cache=None), settings.jobs.submitter, "job", container="ray-job-submitter", run=run
    )
    template["spec"]["restartPolicy"] = "Never"
    return template


def _auth(settings: KubeRaySettings, secret: str) -> dict[str, Any]:
    options = {"mode": "token", **({"secretName": secret} if secret else {})}
    return {"authOptions": options} if settings.auth else {}


def _object(
    kind: str,
    settings: KubeRaySettings,
    name: str,
    component: str,
    spec: dict[str, Any],
    owner: OwnerReference | None,
    *,
    queue: str = "",
    run: str = "",
) -> dict[str, Any]:
    # What engines run is no setting of theirs.
    digested = [labels(settings, component), queue, {key: spec[key] for key in spec if key != "serveConfigV2"}]
    annotations = {DIGEST: hashlib.sha256(json.dumps(digested, sort_keys=True).encode()).hexdigest()}
    if run:
        annotations[RUN] = run
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": settings.namespace,
        "labels": {**labels(settings, component), **({_KUEUE: queue} if queue else {})},
        "annotations": annotations,
    }
    if owner is not None:
        metadata["ownerReferences"] = [dict(owner)]
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
