"""What the chart tells the server is what the server reads."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tests.helm_chart import CHART, Rendered, environment, granted, mounted, read_settings, refused, render, rules
from tests.kubernetes_schemas import at_hand, core_errors, custom_errors, template_errors
from tests.pod_security import restricted_errors

from trellis.base_cache.cache import split_revision
from trellis.server.app.hosts import RunRequest
from trellis.server.clusters.kuberay import manifests
from trellis.server.clusters.kuberay.resources import PERMISSIONS
from trellis.server.clusters.kuberay.settings import (
    ClusterSettings,
    JobSettings,
    KubeRaySettings,
    PodSettings,
    WorkerGroup,
)
from trellis.server.config import OPTIONS, ServerConfig

GIVEN_BY_THE_CHART = {
    f"TRELLIS_{name}"
    for name in [
        "DATABASE_URL",
        "STORE_URL",
        "SECRET_FILE",
        "ADMIN_KEY_FILE",
        "FIRST_ADMIN_KEY_FILE",
        "GRPC_ADDRESS",
        "HTTP_ADDRESS",
        "WORKER_ADDRESS",
        "KUBERAY_FILE",
        "RAY_DASHBOARD_URL",
        "RAY_TOKEN_FILE",
        "SERVE_HOST",
        "SERVE_PORT",
        "BASE_MODELS",
        "ALWAYS_ON",
        "BASE_CACHE",
        "MIGRATE",
        "TLS_CERTIFICATE_FILE",
        "TLS_KEY_FILE",
        "TLS_CLIENT_CA_FILE",
        "TLS_WORKER_CA_FILE",
        "OIDC_FILE",
        "PRICES_FILE",
        "DRAIN_SECONDS",
        "SHUTDOWN_SECONDS",
    ]
}
"""Settings that follow from other values; `server.settings` has the others."""


def known_settings() -> set[str]:
    found = {f"TRELLIS_{one.name.upper()}" for one in fields(ServerConfig) if one.name not in OPTIONS}
    return found | {
        f"TRELLIS_{group.upper()}_{one.name.upper()}" for group, kind in OPTIONS.items() for one in fields(kind)
    }


def server(rendered: Rendered) -> tuple[dict[str, Any], dict[str, Any]]:
    spec = rendered.one("Deployment", f"{rendered.name}-server")["spec"]["template"]["spec"]
    return spec, spec["containers"][0]


def config(rendered: Rendered) -> ServerConfig:
    chosen = environment(server(rendered)[1])
    chosen["TRELLIS_DATABASE_URL"] = "postgresql+psycopg://host/name"  # in the pod, from a Secret
    return ServerConfig.from_environment(chosen)


def test_every_variable_is_a_setting_with_a_value_that_the_server_takes(rendered: Rendered) -> None:
    variables = {name for name in environment(server(rendered)[1]) if name.startswith("TRELLIS_")}
    assert variables <= known_settings()
    read = config(rendered)
    assert not read.is_alone
    assert read.worker_address is not None
    assert read.advertised_endpoint.endswith(f"{rendered.name}-jobs.tuning.svc:{read.worker_address.port}")


def test_the_schema_has_every_setting_that_may_be_chosen_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    known = schema["properties"]["server"]["properties"]["settings"]["properties"]
    expected = sorted(known_settings() - GIVEN_BY_THE_CHART)
    line = ",\n".join(f'"{name}": {{"$ref": "#/definitions/setting"}}' for name in expected)
    assert sorted(known) == expected, (
        f"server.settings of helm/trellis/values.schema.json must have these properties:\n{line}"
    )


def test_the_schema_s_pods_groups_and_clusters_have_the_keys_of_the_settings_file() -> None:
    definitions = json.loads((CHART / "values.schema.json").read_text())["definitions"]
    for kind, name in ((PodSettings, "pod"), (WorkerGroup, "group"), (ClusterSettings, "cluster")):
        assert set(definitions[name]["properties"]) == {camel(one.name) for one in fields(kind)}, name
    jobs = json.loads((CHART / "values.schema.json").read_text())["properties"]["ray"]["properties"]["jobs"][
        "properties"
    ]
    assert set(jobs) - {"capacityCpus", "capacityGpus"} == {camel(one.name) for one in fields(JobSettings)}


def camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def test_every_file_that_a_setting_names_is_mounted(rendered: Rendered) -> None:
    spec, container = server(rendered)
    for name, value in environment(container).items():
        if name.endswith("_FILE"):
            volume = mounted(spec, container, value)
            content = volume.get("secret") or volume["configMap"]
            keys = [item["path"] for item in content.get("items", ())]
            assert not keys or Path(value).name in keys, name


def test_large_numbers_stay_whole(production: Rendered) -> None:
    assert environment(server(production)[1])["TRELLIS_MAX_UPLOAD_BYTES"] == "21474836480"
    assert config(production).max_upload_bytes == 20 * 1024**3


def test_capacity_follows_from_the_groups_unless_it_is_said(production: Rendered, laptop: Rendered) -> None:
    assert config(production).capacity_gpus == 8 + 16 + 16
    assert config(production).capacity_cpus == 8 * 12 + 16 * 8 + 128
    assert config(laptop).capacity_gpus == 0
    assert config(render("laptop", "--set", "server.settings.TRELLIS_CAPACITY_CPUS=2.5")).capacity_cpus == 2.5


def test_the_models_are_registered_that_are_fetched(rendered: Rendered) -> None:
    pods = [
        spec for _, metadata, spec in rendered.pods() if metadata["labels"]["app.kubernetes.io/component"] == "bases"
    ]
    containers = [one for spec in pods for one in (spec.get("initContainers") or spec["containers"])]
    fetched = [(one["command"][-1], "".join(one.get("args", [""])[1:])) for one in containers]
    registered = [split_revision(source) for _, source in config(rendered).base_models]
    assert registered == fetched
    assert {name for name, _ in config(rendered).base_models} >= set(config(rendered).always_on)


class TestRay:
    def test_the_file_has_what_was_chosen(self, production: Rendered, tmp_path: Path) -> None:
        read = read_settings(production, tmp_path)
        assert (read.name, read.namespace, read.owner) == ("demo-trellis", "tuning", "demo-trellis-ray")
        assert read.trainers is not None
        assert read.engines is not None
        assert [(one.name, one.min_replicas, one.max_replicas) for one in read.trainers.groups] == [
            ("h100", 0, 8),
            ("l40s-spot", 0, 16),
        ]
        h100 = read.trainers.groups[0].pod
        assert h100.gpus == 1
        assert h100.node_selector == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
        assert h100.tolerations[0]["key"] == "nvidia.com/gpu"
        assert h100.environment_from_secrets == ("trellis-store",)
        assert read.engines.groups[0].pod.topology_spread_constraints[0]["maxSkew"] == 2
        assert read.jobs.queue == "trellis"
        assert read.network_policies
        assert read.labels == {"cost-center": "ml-platform"}

    def test_the_store_is_where_runs_are_and_not_where_they_are_submitted(
        self, settings: KubeRaySettings, rendered: Rendered
    ) -> None:
        assert settings.trainers is not None
        for pod in (settings.jobs.head, settings.jobs.worker, settings.trainers.head, settings.trainers.groups[0].pod):
            assert pod.environment_from_secrets or {"name": "store", "mountPath": "/store"} in pod.volume_mounts
        assert settings.jobs.submitter.environment_from_secrets == ()
        assert settings.jobs.submitter.volume_mounts == ()
        url = environment(server(rendered)[1])["TRELLIS_STORE_URL"]
        assert url == "/store" or url.startswith("s3://")

    def test_its_objects_are_what_kuberay_and_kubernetes_take(self, settings: KubeRaySettings) -> None:
        made = ray_objects(settings)
        for one in made:
            for template in templates(one):
                assert template_errors(template) == [], one["kind"]
                refused_by = restricted_errors(template["spec"])
                host_path = settings.base_cache is not None and settings.base_cache.host_path
                assert all("hostPath" in error for error in refused_by) if host_path else refused_by == [], one["kind"]
        policy = manifests.run_network_policy(settings, RunRequest("run-1", (), {}, 0.0, 0.0, {}), "uid")
        assert core_errors(policy) == []
        if at_hand("RayCluster", "ray.io/v1") is None:
            pytest.skip("KubeRay's definitions are not at hand")
        for one in made:
            assert custom_errors(one) == [], one["kind"]

    def test_its_accounts_and_secrets_are_there(self, settings: KubeRaySettings, rendered: Rendered) -> None:
        accounts = {one["metadata"]["name"] for one in rendered.all("ServiceAccount")}
        assert {settings.service_account, settings.head_service_account} <= accounts
        token = mounted(*server(rendered), environment(server(rendered)[1])["TRELLIS_RAY_TOKEN_FILE"])
        assert token["secret"]["secretName"] == settings.auth_secret

    def test_its_claims_are_those_that_are_filled(self, laptop: Rendered, tmp_path: Path) -> None:
        claims = {one["metadata"]["name"] for one in laptop.all("PersistentVolumeClaim")}
        settings = read_settings(laptop, tmp_path)
        assert settings.base_cache is not None
        assert {settings.base_cache.claim, "demo-trellis-store"} == claims
        for one in laptop.all("PersistentVolumeClaim"):
            assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


class TestRoles:
    def test_the_servers_may_do_what_they_do_and_nothing_else(self, rendered: Rendered) -> None:
        assert granted(rendered, "server") == PERMISSIONS

    def test_they_read_and_change_their_own_standing_objects_alone(
        self, rendered: Rendered, settings: KubeRaySettings
    ) -> None:
        named = {
            (resource, verb): rule.get("resourceNames")
            for rule in rules(rendered, "server")
            for resource in rule["resources"]
            for verb in rule["verbs"]
        }
        for verb in ("get", "patch"):
            assert named["rayclusters", verb] == [manifests.trainers_name(settings)]
            assert named["rayservices", verb] == [manifests.engines_name(settings)]
        assert named["configmaps", "get"] == [settings.owner]

    def test_the_autoscaler_may_do_what_kuberay_would_let_it(self, rendered: Rendered) -> None:
        pods = {("", "pods", verb) for verb in ("get", "list", "watch")}
        assert granted(rendered, "ray-head") == pods | {("ray.io", "rayclusters", verb) for verb in ("get", "patch")}

    def test_nothing_reaches_beyond_the_namespace(self, rendered: Rendered) -> None:
        assert not rendered.all("ClusterRole")
        assert not rendered.all("ClusterRoleBinding")
        for binding in rendered.all("RoleBinding"):
            (subject,) = binding["subjects"]
            assert subject["namespace"] == "tuning"
            assert subject["name"] == binding["roleRef"]["name"] == binding["metadata"]["name"]


def ray_objects(settings: KubeRaySettings) -> list[dict[str, Any]]:
    request = RunRequest(
        "run-1", ("python",), {}, 0.0, 0.0, {}, workers=2, worker_cpus=2, worker_gpus=1, own_cluster=True
    )
    assert settings.trainers is not None
    assert settings.engines is not None
    return [
        manifests.trainers_cluster(settings, settings.trainers),
        manifests.engines_service(settings, settings.engines, "applications: []"),
        manifests.ray_job(settings, request),
    ]


def templates(one: dict[str, Any]) -> list[dict[str, Any]]:
    spec = one["spec"]
    cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    found = [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]
    return [*found, *([spec["submitterPodTemplate"]] if "submitterPodTemplate" in spec else ())]


def test_a_setting_that_another_value_gives_is_refused_by_its_name() -> None:
    assert "TRELLIS_DRAIN_SECONDS" in refused("laptop", "server.settings.TRELLIS_DRAIN_SECONDS=3")
