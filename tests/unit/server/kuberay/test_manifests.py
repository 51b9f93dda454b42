"""Every object that is made for KubeRay is one that Kubernetes takes, whatever an operator chooses."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.kuberay_settings import EVERY, LAPTOP, ONE_GPU, OWNER, PRODUCTION, a_run
from tests.kubernetes_schemas import core_errors, custom_errors, template_errors
from tests.pod_security import restricted_errors

from trellis.server.clusters.kuberay.manifests import (
    DIGEST,
    RUN,
    engines_service,
    job_name,
    ray_job,
    run_network_policy,
    run_secret,
    trainers_cluster,
)
from trellis.server.clusters.kuberay.settings import ClusterSettings, KubeRaySettings, PodSettings, WorkerGroup

SERVE = '{"applications": []}'


def objects(settings: KubeRaySettings) -> list[dict[str, Any]]:
    """All that KubeRay works on, of these settings."""
    made = [ray_job(settings, a_run(), OWNER), ray_job(settings, a_run(workers=0, cpus=0.5, gpus=0.5))]
    if settings.trainers:
        made.append(trainers_cluster(settings, settings.trainers, OWNER))
    if settings.engines:
        made.append(engines_service(settings, settings.engines, SERVE, OWNER))
    return made


def templates(document: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """All pod templates in an object, with what they are for."""
    if isinstance(document, Mapping):
        for name, value in document.items():
            if name in {"template", "submitterPodTemplate"}:
                yield value["spec"]["containers"][0]["name"], value
            else:
                yield from templates(value)
    elif isinstance(document, list):
        for item in document:
            yield from templates(item)


def pods(settings: KubeRaySettings) -> list[tuple[str, dict[str, Any]]]:
    return [pod for document in objects(settings) for pod in templates(document)]


@pytest.fixture(params=EVERY)
def settings(request: pytest.FixtureRequest) -> KubeRaySettings:
    return EVERY[request.param]


def test_objects_are_what_the_definitions_of_kuberay_allow(settings: KubeRaySettings) -> None:
    assert [custom_errors(document) for document in objects(settings)] == [[] for _ in objects(settings)]


def test_a_field_that_kuberay_does_not_know_would_be_seen() -> None:
    job = ray_job(LAPTOP, a_run())
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["tolerationz"] = []
    job["spec"]["backoffLimit"] = "none"
    assert custom_errors(job) == [
        "RayJob.spec.backoffLimit must be of type integer, not 'none'",
        "RayJob.spec.rayClusterSpec.headGroupSpec.template.spec.tolerationz is not known",
    ]


def test_pods_are_what_every_supported_kubernetes_allows(settings: KubeRaySettings) -> None:
    assert {name: errors for name, pod in pods(settings) if (errors := template_errors(pod))} == {}


def test_secret_and_policy_of_a_run_are_valid(settings: KubeRaySettings) -> None:
    assert core_errors(run_secret(settings, a_run(), "an-uid")) == []
    assert core_errors(run_network_policy(settings, a_run(), "an-uid")) == []


@pytest.mark.parametrize("name", ["laptop", "production"])
def test_pods_are_restricted(name: str) -> None:
    assert [restricted_errors(pod["spec"]) for _, pod in pods(EVERY[name])] == [[] for _ in pods(EVERY[name])]


def test_the_autoscaler_is_restricted_too() -> None:
    assert ONE_GPU.trainers is not None
    options = trainers_cluster(ONE_GPU, ONE_GPU.trainers)["spec"]["autoscalerOptions"]
    assert restricted_errors({"containers": [{**options, "name": "autoscaler"}]}) == []


def test_a_folder_of_the_node_is_the_one_thing_that_restricted_forbids() -> None:
    errors = {error for _, pod in pods(ONE_GPU) for error in restricted_errors(pod["spec"])}
    assert errors == {"the volume 'bases' is of the kind hostPath, which is not allowed"}


def test_containers_write_nowhere_but_to_their_own_volumes(settings: KubeRaySettings) -> None:
    for _, pod in pods(settings):
        (container,) = pod["spec"]["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        own = {v["name"] for v in pod["spec"]["volumes"] if "emptyDir" in v}
        assert {m["mountPath"] for m in container["volumeMounts"] if m["name"] in own} >= {"/tmp"}
        others = [m for m in container["volumeMounts"] if m["name"] not in own]
        assert all(m.get("readOnly") for m in others)


def test_only_the_head_of_a_cluster_that_scales_has_a_token() -> None:
    assert PRODUCTION.trainers is not None
    assert PRODUCTION.engines is not None
    with_token = {
        (name, pod["spec"].get("serviceAccountName"))
        for document in objects(PRODUCTION)
        for name, pod in templates(document)
        if pod["spec"]["automountServiceAccountToken"]
    }
    assert with_token == {("ray-head", "trellis-ray-head")}
    assert not trainers_cluster(LAPTOP, LAPTOP.trainers or ClusterSettings())["spec"]["enableInTreeAutoscaling"]
    assert not any(pod["spec"]["automountServiceAccountToken"] for _, pod in pods(LAPTOP))


def test_ray_counts_in_whole_numbers_as_its_command_wants() -> None:
    job = ray_job(LAPTOP, a_run(cpus=0.5, gpus=0.5, worker_cpus=2.5, worker_gpus=0.25))
    cluster = job["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "1"
    assert group["rayStartParams"]["num-cpus"] == "3"
    assert group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.mark.parametrize(
    "submission_id", ["trellis-0a1b2c3d-j7k3m9x2-1", "Trellis_Big", "trellis-" + "a" * 60, "1-is-no-beginning"]
)
def test_names_keep_to_the_limits_of_kuberay(submission_id: str) -> None:
    name = job_name(submission_id)
    job = ray_job(PRODUCTION, a_run(submission_id=submission_id))
    assert name == job["metadata"]["name"] == job_name(submission_id)
    assert len(name) <= 47
    assert job["metadata"]["annotations"][RUN] == job["spec"]["jobId"] == submission_id
    for document in objects(PRODUCTION):
        services = (f"{document['metadata']['name']}-head-svc", f"{document['metadata']['name']}-serve-svc")
        assert document["kind"] == "RayJob" or max(map(len, services)) <= 52


def test_different_runs_have_different_names() -> None:
    names = {job_name(f"Trellis-{number}") for number in range(100)}
    assert len(names) == 100


def test_other_settings_replace_all_trainers_at_once_and_engines_without_a_cut_answer() -> None:
    assert LAPTOP.trainers is not None
    assert LAPTOP.engines is not None
    assert trainers_cluster(LAPTOP, LAPTOP.trainers)["spec"]["upgradeStrategy"] == {"type": "Recreate"}
    engines = engines_service(LAPTOP, LAPTOP.engines, SERVE)["spec"]
    assert engines["upgradeStrategy"] == {"type": "NewCluster"}
    assert engines["rayClusterDeletionDelaySeconds"] > 0


def test_a_run_has_its_secrets_by_reference_only() -> None:
    request = a_run()
    document = ray_job(PRODUCTION, request)
    assert "a-ticket" not in str(document)
    for name, pod in templates(document["spec"]["rayClusterSpec"]):
        sources = pod["spec"]["containers"][0]["envFrom"]
        assert {"secretRef": {"name": job_name(request.submission_id)}} in sources, name
    secret = run_secret(PRODUCTION, request, "an-uid")
    assert secret["stringData"] == request.environment
    assert secret["metadata"]["ownerReferences"][0]["uid"] == "an-uid"


def test_the_digest_of_a_standing_object_changes_with_its_settings_and_not_with_what_engines_run() -> None:
    engines = LAPTOP.engines
    assert engines is not None

    def digest(settings: KubeRaySettings, serve: str = SERVE) -> str:
        made = engines_service(settings, engines, serve, OWNER)
        return str(made["metadata"]["annotations"][DIGEST])

    assert digest(LAPTOP) == digest(LAPTOP, '{"applications": [{}]}')
    assert digest(LAPTOP) != digest(replace(LAPTOP, image="trellis-ray:new"))
    assert digest(LAPTOP) != digest(replace(LAPTOP, labels={"a": "b"}))


def test_groups_scale_between_their_bounds() -> None:
    group = WorkerGroup("gpu", PodSettings(gpus=1), 1, 3)
    cluster = trainers_cluster(PRODUCTION, ClusterSettings(groups=(group,), idle_seconds=90))
    assert cluster["spec"]["enableInTreeAutoscaling"] is True
    assert cluster["spec"]["autoscalerOptions"]["idleTimeoutSeconds"] == 90
    (made,) = cluster["spec"]["workerGroupSpecs"]
    assert (made["minReplicas"], made["replicas"], made["maxReplicas"]) == (1, 1, 3)


def test_where_ray_asks_for_a_token_standing_clusters_share_the_one_that_the_server_has() -> None:
    by_kind = {document["kind"]: document["spec"] for document in objects(PRODUCTION)}
    named = {"mode": "token", "secretName": "trellis-ray-token"}
    assert by_kind["RayCluster"]["authOptions"] == by_kind["RayService"]["rayClusterConfig"]["authOptions"] == named
    assert by_kind["RayJob"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert "authOptions" not in ray_job(LAPTOP, a_run())["spec"]["rayClusterSpec"]


def test_kueue_queues_are_labels() -> None:
    label = "kueue.x-k8s.io/queue-name"
    queues = {document["kind"]: document["metadata"]["labels"].get(label) for document in objects(PRODUCTION)}
    assert queues == {"RayJob": "training", "RayCluster": None, "RayService": "serving"}
