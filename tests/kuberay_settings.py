"""Settings of pods on Kubernetes, as operators of a laptop, of one node with a GPU and of a larger cluster choose them."""

from typing import Any, Final

from trellis.server.app.hosts import RunRequest
from trellis.server.clusters.kuberay.settings import (
    BaseCache,
    ClusterSettings,
    JobSettings,
    KubeRaySettings,
    PodSettings,
    SecretKey,
    WorkerGroup,
)

OWNER: Final = {"apiVersion": "v1", "kind": "ConfigMap", "name": "trellis-kuberay", "uid": "0b0a-1c"}

LAPTOP: Final = KubeRaySettings(
    namespace="trellis",
    name="trellis",
    image="trellis-ray:dev",
    ray_version="2.60.0",
    auth=False,
    trainers=ClusterSettings(groups=(WorkerGroup("cpu", PodSettings(memory="3Gi"), 1, 1),)),
    engines=ClusterSettings(groups=(WorkerGroup("cpu", PodSettings(memory="3Gi"), 1, 1),)),
)
_GPU = PodSettings(cpus=8.0, memory="64Gi", gpus=1, shared_memory="16Gi")
ONE_GPU: Final = KubeRaySettings(
    namespace="ml",
    name="trellis",
    image="registry.example.com/trellis-ray:1.0",
    ray_version="2.60.0",
    owner="trellis-kuberay",
    auth_secret="trellis-ray-token",
    base_cache=BaseCache(path="/bases", host_path="/var/lib/trellis/bases"),
    trainers=ClusterSettings(groups=(WorkerGroup("gpu", _GPU, 0, 1),)),
)
_PRODUCTION_POD = PodSettings(
    cpus=16.0,
    memory="256Gi",
    gpus=4,
    accelerator="amd.com/gpu",
    shared_memory="64Gi",
    scratch="200Gi",
    node_selector={"pool": "gpu"},
    tolerations=({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},),
    topology_spread_constraints=(
        {
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/component": "engines"}},
        },
    ),
    affinity={
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h200"]}]}]
            }
        }
    },
    volumes=({"name": "certificates", "configMap": {"name": "store-ca"}},),
    volume_mounts=({"name": "certificates", "mountPath": "/etc/store-ca", "readOnly": True},),
    environment={"NCCL_DEBUG": "WARN", "AWS_ENDPOINT_URL": "https://s3.example.com"},
    secret_environment={"HF_TOKEN": SecretKey("hub", "token")},
    environment_from_secrets=("store-credentials",),
    priority_class="training",
    runtime_class="nvidia",
    labels={"cost-centre": "42"},
    annotations={"karpenter.sh/do-not-disrupt": "true"},
)
PRODUCTION: Final = KubeRaySettings(
    namespace="trellis-system",
    name="a-rather-long-name-of-trellis-32",
    image="registry.example.com/trellis-ray@sha256:" + "0" * 64,
    ray_version="2.60.0",
    owner="trellis-kuberay",
    image_pull_policy="Always",
    image_pull_secrets=("registry",),
    service_account="trellis-ray",
    head_service_account="trellis-ray-head",
    user=10001,
    labels={"helm.sh/chart": "trellis-1.0"},
    auth_secret="trellis-ray-token",
    network_policies=True,
    base_cache=BaseCache(claim="bases"),
    trainers=ClusterSettings(
        head=PodSettings(cpus=2.0, memory="8Gi", node_selector={"pool": "system"}),
        groups=(
            WorkerGroup("h200", _PRODUCTION_POD, 0, 8),
            WorkerGroup("cpu", PodSettings(cpus=4.0, memory="16Gi"), 1, 4),
        ),
        idle_seconds=600,
    ),
    engines=ClusterSettings(groups=(WorkerGroup("h200", _PRODUCTION_POD, 2, 2),), queue="serving"),
    jobs=JobSettings(worker=_PRODUCTION_POD, queue="training"),
)
EVERY: Final = {"laptop": LAPTOP, "one-gpu": ONE_GPU, "production": PRODUCTION}


def a_run(**changes: Any) -> RunRequest:
    """A run with two workers of one GPU and its own cluster, unless something else is asked."""
    values: dict[str, Any] = {
        "submission_id": "trellis-0a1b2c3d-j7k3m9x2-1",
        "entrypoint": ("python", "-m", "trellis_jobs.distributed.main"),
        "environment": {"TRELLIS_ATTEMPT_TICKET": "a-ticket", "TRELLIS_ENDPOINT": "trellis:50052"},
        "cpus": 0.0,
        "gpus": 0.0,
        "metadata": {"tuning_job": "tenants/red/tuningJobs/one", "attempt": "1"},
        "workers": 2,
        "worker_cpus": 4.0,
        "worker_gpus": 1.0,
        "own_cluster": True,
    }
    return RunRequest(**{**values, **changes})
