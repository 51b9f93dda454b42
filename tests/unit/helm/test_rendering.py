"""What the chart makes is what Kubernetes takes, and the same each time."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from tests.helm_chart import (
    CHART,
    OLDEST,
    VALUES,
    Rendered,
    environment,
    mounted,
    read_settings,
    render,
    run_helm,
    template,
)
from tests.kubernetes_schemas import core_errors
from tests.pod_security import restricted_errors

from trellis.cli.main import trellis

OTHERS = {
    "Certificate": "cert-manager.io/v1",
    "GRPCRoute": "gateway.networking.k8s.io/v1",
    "BackendTLSPolicy": "gateway.networking.k8s.io/v1",
    "ServiceMonitor": "monitoring.coreos.com/v1",
    "PodMonitor": "monitoring.coreos.com/v1",
    "PrometheusRule": "monitoring.coreos.com/v1",
}
"""Kinds that others define: no schema of theirs is at hand."""
RANDOM = re.compile(r"^  (?:server-secret|admin-key|auth_token|password|url): \S+$", re.MULTILINE)


@pytest.mark.parametrize("name", VALUES)
def test_lint_has_nothing_to_say(name: str) -> None:
    values = str(CHART / "ci" / f"{name}-values.yaml")
    done = run_helm("lint", "--strict", "--kube-version", OLDEST, "--values", values, str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout


def test_every_object_is_valid_from_the_oldest_to_the_newest_kubernetes(rendered: Rendered) -> None:
    for one in rendered.objects:
        where = f"{one['kind']} {one['metadata']['name']}"
        if one["kind"] in OTHERS:
            assert one["apiVersion"] == OTHERS[one["kind"]], where
        else:
            assert core_errors(one) == [], where


@pytest.mark.parametrize(
    ("values", "changes"),
    [
        ("laptop", "networkPolicy.enabled=false,tests.enabled=false,ray.auth.enabled=false"),
        ("laptop", "networkPolicy.enabled=false,bases.cache.mode=none"),
        ("laptop", "bases.models=null,database.bundled.storageClass=fast,store.pvc.storageClass=fast"),
        ("laptop", "store.pvc.existingClaim=mine,bases.cache.pvc.existingClaim=theirs"),
        ("production", "tls.jobsTrustCa=false,store.existingSecret=,store.region=,gateway.hostnames=null"),
        ("production", "server.prices=currency = 'EUR',server.maxUnavailable=50%,server.podAnnotations.a=b"),
        ("given-secrets", "tls.clientCaSecret=,server.oidc=,server.service.type=NodePort"),
    ],
)
def test_the_other_sides_of_choices_are_valid_too(values: str, changes: str, tmp_path: Path) -> None:
    rendered = render(values, "--set", changes)
    for one in rendered.objects:
        assert one["kind"] in OTHERS or core_errors(one) == [], f"{one['kind']} {one['metadata']['name']}"
    read_settings(rendered, tmp_path)
    for where, _, spec in rendered.pods():
        named = {volume["name"] for volume in spec.get("volumes", ())} | {"data"}
        for container in [*spec["containers"], *spec.get("initContainers", ())]:
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= named, where


def test_every_object_is_in_the_release_s_namespace_with_its_labels(rendered: Rendered) -> None:
    names = set()
    for one in rendered.objects:
        metadata = one["metadata"]
        assert metadata["namespace"] == "tuning"
        assert metadata["name"].startswith(rendered.name)
        assert metadata["labels"]["app.kubernetes.io/instance"] == rendered.name
        names.add((one["kind"], metadata["name"]))
    assert len(names) == len(rendered.objects)


def test_every_pod_is_restricted_and_bounded(rendered: Rendered) -> None:
    seen = 0
    for where, _, spec in rendered.pods():
        allowed = (
            ["the volume 'bases' is of the kind hostPath, which is not allowed"] if "hostPath" in str(spec) else []
        )
        assert restricted_errors(spec) == allowed, where
        for container in [*spec["containers"], *spec.get("initContainers", ())]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, where
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, where
            assert "memory" in container["resources"]["limits"], where
            seen += 1
    assert seen >= 4


def test_only_the_servers_have_a_token(rendered: Rendered) -> None:
    with_token = {where for where, _, spec in rendered.pods() if spec["automountServiceAccountToken"]}
    assert with_token == {f"Deployment {rendered.name}-server"}
    assert all(one["automountServiceAccountToken"] is False for one in rendered.all("ServiceAccount"))
    accounts = {one["metadata"]["name"] for one in rendered.all("ServiceAccount")}
    assert {spec["serviceAccountName"] for _, _, spec in rendered.pods()} <= accounts


def test_a_cloud_s_role_is_of_all_who_reach_the_store(production: Rendered) -> None:
    role = 'store.accountAnnotations={"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/trellis"}'
    accounts = render("production", "--set-json", role).all("ServiceAccount")
    assert len(accounts) == len(production.all("ServiceAccount")) == 3
    for one in accounts:
        assert one["metadata"]["annotations"] == {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/trellis"}
        assert one["automountServiceAccountToken"] is False
        assert core_errors(one) == []
    assert not [one for one in production.all("ServiceAccount") if "annotations" in one["metadata"]]


def test_every_selector_selects_pods_of_one_component(rendered: Rendered) -> None:
    pods = [metadata["labels"] for _, metadata, _ in rendered.pods()]
    selectors = [one["spec"]["selector"] for one in rendered.all("Service")]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in rendered.all("PodDisruptionBudget")]
    for selector in selectors:
        hit = {labels["app.kubernetes.io/component"] for labels in pods if selector.items() <= labels.items()}
        assert hit == {selector["app.kubernetes.io/component"]}
    for kind in ("Deployment", "StatefulSet", "DaemonSet"):
        for one in rendered.all(kind):
            selector = one["spec"]["selector"]["matchLabels"]
            assert selector.items() <= one["spec"]["template"]["metadata"]["labels"].items()


def test_what_is_mounted_is_there(rendered: Rendered) -> None:
    made = {(one["kind"], one["metadata"]["name"]) for one in rendered.objects}
    for where, _, spec in rendered.pods():
        volumes = {volume["name"] for volume in spec.get("volumes", ())}
        claims = {"data"} if where.startswith("StatefulSet") else set()
        for container in [*spec["containers"], *spec.get("initContainers", ())]:
            names = {mount["name"] for mount in container.get("volumeMounts", ())}
            assert names <= volumes | claims, where
        for volume in spec.get("volumes", ()):
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in made, where
            if "secret" in volume and volume["secret"]["secretName"].startswith(f"{rendered.name}-"):
                name = volume["secret"]["secretName"]
                assert ("Secret", name) in made or name.endswith("-tls") or rendered.name == "trellis", where


@pytest.mark.parametrize("name", VALUES)
def test_two_renderings_differ_in_what_is_secret_alone(name: str) -> None:
    first, second = (template(name).stdout for _ in range(2))
    assert RANDOM.sub("", first) == RANDOM.sub("", second)
    made = [*yaml.safe_load_all(first), *yaml.safe_load_all(second)]
    secrets = [str(value) for one in made if one and one["kind"] == "Secret" for value in one["data"].values()]
    assert len(set(secrets)) == len(secrets)
    if name == "given-secrets":
        assert secrets == []


def test_the_labels_of_ci_files_reach_every_pod(given_secrets: Rendered) -> None:
    for where, metadata, spec in given_secrets.pods():
        assert metadata["labels"]["team"] == "platform", where
        assert spec["imagePullSecrets"] == [{"name": "registry"}], where


def test_a_digest_counts_before_a_tag(given_secrets: Rendered, laptop: Rendered) -> None:
    (given,) = given_secrets.one("Deployment", "tuning-server")["spec"]["template"]["spec"]["containers"]
    assert given["image"].endswith("trellis-server@sha256:" + "1" * 64)
    (plain,) = laptop.one("Deployment", "demo-trellis-server")["spec"]["template"]["spec"]["containers"]
    assert plain["image"] == "ghcr.io/trellis/trellis-server:0.1.0"


class TestMigration:
    def test_at_an_install_it_is_no_hook_so_that_waiting_for_servers_does_not_wait_for_ever(
        self, rendered: Rendered
    ) -> None:
        (job,) = (one for one in rendered.all("Job") if "-migrate-" in one["metadata"]["name"])
        assert "annotations" not in job["metadata"]
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert container["command"] == ["python", "-m", "trellis.server.store.migrations"]
        (server,) = rendered.one("Deployment", f"{rendered.name}-server")["spec"]["template"]["spec"]["containers"]
        assert environment(server)["TRELLIS_MIGRATE"] == "wait"
        assert environment(server)["TRELLIS_DATABASE_URL"] == environment(container)["TRELLIS_DATABASE_URL"]

    def test_at_an_upgrade_it_runs_before_anything_changes(self) -> None:
        upgraded = render("production", "--is-upgrade")
        (job,) = (one for one in upgraded.all("Job") if "-migrate-" in one["metadata"]["name"])
        hooks = job["metadata"]["annotations"]
        assert hooks["helm.sh/hook"] == "pre-upgrade"
        assert hooks["helm.sh/hook-delete-policy"] == "before-hook-creation"

    def test_one_that_goes_back_is_rendered_by_itself_and_is_a_job_of_its_own(self, laptop: Rendered) -> None:
        words = "database.migrationArguments={--to,v0006,--down}"
        shown = template("laptop", "--show-only", "templates/database/migration.yaml", "--set", words)
        (job,) = (one for one in yaml.safe_load_all(shown.stdout) if one)
        assert core_errors(job) == []
        assert job["metadata"]["name"] not in {one["metadata"]["name"] for one in laptop.all("Job")}
        (container,) = job["spec"]["template"]["spec"]["containers"]
        (plain,) = next(
            one["spec"]["template"]["spec"]["containers"]
            for one in laptop.all("Job")
            if "-migrate-" in one["metadata"]["name"]
        )
        assert container == {**plain, "args": ["--to", "v0006", "--down"]}
        refused_at_an_upgrade = template("laptop", "--is-upgrade", "--set", words)
        assert "leave it out of an upgrade" in refused_at_an_upgrade.stderr


def test_a_job_s_name_goes_with_all_of_it_as_none_can_be_changed(production: Rendered) -> None:
    changes = ["image.server.tag=0.2.0", "labels.a=b", "bases.fetch.retries=3", "image.pullPolicy=Always"]
    seen = {one["metadata"]["name"]: one["spec"] for one in production.all("Job")}
    assert len(seen) == 3
    for each in (render("production"), *(render("production", "--set", change) for change in changes)):
        for one in each.all("Job"):
            assert seen.setdefault(one["metadata"]["name"], one["spec"]) == one["spec"]
    assert len(seen) > 3 + 3


class TestServers:
    def test_one_is_replaced_without_a_failed_call(self, rendered: Rendered) -> None:
        deployment = rendered.one("Deployment", f"{rendered.name}-server")
        spec = deployment["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        settings = environment(container)
        ends = float(settings["TRELLIS_DRAIN_SECONDS"]) + 2 * float(settings["TRELLIS_SHUTDOWN_SECONDS"])
        assert spec["terminationGracePeriodSeconds"] > ends
        assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
        ready = container["readinessProbe"]
        assert ready["httpGet"]["path"] == "/readyz"
        noticed = ready["periodSeconds"] * ready["failureThreshold"]
        alone = deployment["spec"]["replicas"] == 1
        assert alone or float(settings["TRELLIS_DRAIN_SECONDS"]) > noticed + ready["timeoutSeconds"]

    def test_they_are_spread_and_a_budget_keeps_all_but_one(self, production: Rendered) -> None:
        spec = production.one("Deployment", "demo-trellis-server")["spec"]
        assert spec["replicas"] == 3
        keys = [one["topologyKey"] for one in spec["template"]["spec"]["topologySpreadConstraints"]]
        assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
        assert production.one("PodDisruptionBudget", "demo-trellis-server")["spec"]["maxUnavailable"] == 1

    def test_their_life_is_asked_for_by_grpc_where_there_is_no_tls(
        self, laptop: Rendered, production: Rendered
    ) -> None:
        probes = [
            each.one("Deployment", f"{each.name}-server")["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]
            for each in (laptop, production)
        ]
        assert probes[0]["grpc"] == {"port": 50051}
        assert probes[1]["httpGet"]["path"] == "/healthz"

    def test_one_that_waits_for_the_database_is_let_wait(self, rendered: Rendered) -> None:
        (container,) = rendered.one("Deployment", f"{rendered.name}-server")["spec"]["template"]["spec"]["containers"]
        probe = container["startupProbe"]
        assert probe["httpGet"]["path"] == "/readyz"  # /healthz answers while the API is not there yet
        assert probe["periodSeconds"] * probe["failureThreshold"] >= 900

    def test_other_settings_of_ray_or_files_replace_them(self, laptop: Rendered) -> None:
        changed = render("laptop", "--set", "ray.trainers.idleSeconds=7")
        digests = [
            each.one("Deployment", f"{each.name}-server")["spec"]["template"]["metadata"]["annotations"]
            for each in (laptop, changed)
        ]
        assert digests[0]["trellis.dev/settings"] != digests[1]["trellis.dev/settings"]
        assert digests[0]["trellis.dev/files"] == digests[1]["trellis.dev/files"]


class TestWhatOthersDefine:
    def test_cert_manager_signs_for_both_services_and_the_names_of_clients(self, production: Rendered) -> None:
        spec = production.one("Certificate", "demo-trellis")["spec"]
        assert {"demo-trellis.tuning.svc", "demo-trellis-jobs.tuning.svc", "trellis.acme.example"} <= set(
            spec["dnsNames"]
        )
        assert spec["issuerRef"] == {"name": "cluster-ca", "kind": "ClusterIssuer", "group": "cert-manager.io"}
        (mounted,) = (
            volume["secret"]["secretName"]
            for volume in production.one("Deployment", "demo-trellis-server")["spec"]["template"]["spec"]["volumes"]
            if volume["name"] == "tls"
        )
        assert mounted == spec["secretName"]

    def test_the_gateway_leads_to_the_api_and_speaks_tls_to_it(self, production: Rendered) -> None:
        spec = production.one("GRPCRoute", "demo-trellis")["spec"]
        assert spec["hostnames"] == ["trellis.acme.example"]
        assert spec["rules"] == [{"backendRefs": [{"name": "demo-trellis", "port": 50051}]}]
        policy = production.one("BackendTLSPolicy", "demo-trellis")["spec"]
        assert policy["validation"]["hostname"] in production.one("Certificate", "demo-trellis")["spec"]["dnsNames"]

    def test_the_ingress_speaks_grpc(self) -> None:
        sets = ["--set", "ingress.enabled=true,ingress.host=a.example,ingress.tlsSecret=a"]
        sets += ["--set-json", 'networkPolicy.clients=[{"namespaceSelector":{}}]']
        spec = render("laptop", *sets).one("Ingress", "demo-trellis")
        assert spec["metadata"]["annotations"]["nginx.ingress.kubernetes.io/backend-protocol"] == "GRPC"
        assert spec["spec"]["tls"] == [{"hosts": ["a.example"], "secretName": "a"}]
        assert core_errors(spec) == []


class TestBaseModels:
    def test_each_is_fetched_by_a_job_of_its_own(self, production: Rendered) -> None:
        jobs = [one for one in production.all("Job") if "-fetch-" in one["metadata"]["name"]]
        containers = [one["spec"]["template"]["spec"]["containers"][0] for one in jobs]
        assert [one["command"][2:] for one in containers] == [
            ["trellis.base_cache", "meta-llama/Llama-3.1-8B-Instruct"],
            ["trellis.base_cache", "s3://acme-models/house-7b"],
        ]
        assert containers[0]["args"][0] == "--revision"
        assert environment(containers[0])["HF_TOKEN"] == "huggingface/token"
        assert "envFrom" not in containers[0]
        assert containers[1]["envFrom"] == [{"secretRef": {"name": "trellis-store"}}]

    def test_a_mirror_or_a_proxy_is_named_to_whoever_fetches(self) -> None:
        chosen = "bases.fetch.environment.HF_ENDPOINT=https://mirror,bases.fetch.environment.HF_HUB_DISABLE_XET=1"
        for values in ("production", "given-secrets"):
            pods = {where: spec for where, _, spec in render(values, "--set", chosen).pods()}
            fetching = [spec for where, spec in pods.items() if "-fetch-" in where or "-bases" in where]
            for spec in fetching:
                (container,) = spec.get("initContainers") or spec["containers"]
                variables = environment(container)
                assert variables["HF_ENDPOINT"] == "https://mirror"
                assert variables["HF_HUB_DISABLE_XET"] == "1"
            assert len(fetching) == {"production": 2, "given-secrets": 1}[values]

    def test_a_folder_of_each_node_is_filled_on_each(self, given_secrets: Rendered) -> None:
        spec = given_secrets.one("DaemonSet", "tuning-bases")["spec"]["template"]["spec"]
        (fetch,) = spec["initContainers"]
        assert fetch["command"][-1] == "Qwen/Qwen3-8B"
        assert environment(fetch)["HF_TOKEN"] == "huggingface/hf"
        assert not [one for one in given_secrets.all("Job") if "-fetch-" in one["metadata"]["name"]]

    def test_servers_and_the_cache_agree_on_the_place(self, rendered: Rendered) -> None:
        spec = rendered.one("Deployment", f"{rendered.name}-server")["spec"]["template"]["spec"]
        (mount,) = (one for one in spec["containers"][0]["volumeMounts"] if one["name"] == "bases")
        assert mount["mountPath"] == environment(spec["containers"][0])["TRELLIS_BASE_CACHE"]
        assert mount["readOnly"] is True


class TestHelmTest:
    def test_its_pods_call_the_release_s_own_service(self, rendered: Rendered) -> None:
        pods = {one["metadata"]["name"]: one["spec"] for one in rendered.all("Pod")}
        assert f"{rendered.name}-test-isolation" in pods
        for spec in pods.values():
            (container,) = spec["containers"]
            options = dict(pairwise(container["args"]))
            scheme = "https" if "TRELLIS_CA_FILE" in environment(container) else "http"
            assert options["--endpoint"] == f"{scheme}://{rendered.name}.tuning.svc:50051"
            assert options["--api-key-file"] == "/run/trellis/secret/admin-key"

    def test_they_take_another_admin_s_key_when_the_first_is_revoked(self, laptop: Rendered) -> None:
        changed = render("laptop", "--set", "tests.adminKeySecret=mine")
        for each, secret in ((laptop, "demo-trellis-secret"), (changed, "mine")):
            for pod in each.all("Pod"):
                volume = mounted(pod["spec"], pod["spec"]["containers"][0], "/run/trellis/secret/admin-key")
                assert volume["secret"]["secretName"] == secret
                assert volume["secret"]["items"] == [{"key": "admin-key", "path": "admin-key"}]
        (server,) = changed.one("Deployment", "demo-trellis-server")["spec"]["template"]["spec"]["volumes"][1:2]
        assert server["secret"]["secretName"] == "demo-trellis-secret"

    def test_a_model_answers_whose_engine_always_runs(self, production: Rendered, given_secrets: Rendered) -> None:
        spec = production.one("Pod", "demo-trellis-test-generate")["spec"]
        assert "baseModels/llama-3-1-8b" in spec["containers"][0]["args"]
        assert spec["restartPolicy"] == "OnFailure"  # while the engine starts
        assert [one["metadata"]["name"] for one in given_secrets.all("Pod")] == ["tuning-test-isolation"]

    @pytest.mark.parametrize("values", ["production", "given-secrets"])
    def test_a_model_answers_that_is_named(self, values: str) -> None:
        rendered = render(values, "--set", "tests.model=tenants/acme/adapters/support")
        spec = rendered.one("Pod", f"{rendered.name}-test-generate")["spec"]
        assert dict(pairwise(spec["containers"][0]["args"]))["--model"] == "tenants/acme/adapters/support"
        assert spec["activeDeadlineSeconds"] == 1800

    def test_their_words_are_ones_that_the_command_line_knows(self, production: Rendered, tmp_path: Path) -> None:
        key = tmp_path / "admin-key"
        key.write_text("trk_" + "a" * 32)
        for pod in production.all("Pod"):
            (container,) = pod["spec"]["containers"]
            assert container["command"] == ["trellis"]
            words = [str(key) if word == "/run/trellis/secret/admin-key" else word for word in container["args"]]
            done = CliRunner().invoke(trellis, [*words, "--help"])
            assert done.exit_code == 0, done.output
            assert CliRunner().invoke(trellis, [*words, "--no-such-option", "--help"]).exit_code == 2
