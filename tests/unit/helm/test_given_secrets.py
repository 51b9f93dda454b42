"""A Secret that somebody else keeps and changes: the next `helm upgrade` replaces what read it at its start, and nothing else."""

import base64
from pathlib import Path

import pytest
from tests.helm_chart import Object, Rendered, read_settings, render
from tests.helm_cluster import Cluster

from trellis.server.clusters.kuberay import manifests
from trellis.server.clusters.kuberay.settings import KubeRaySettings

ON_A_CLUSTER = ("--is-upgrade", "--dry-run=server")
CA = base64.b64encode(b"-----BEGIN CERTIFICATE-----").decode()


@pytest.fixture
def given(cluster: Cluster) -> Cluster:
    """All that ci/production-values.yaml and ci/given-secrets-values.yaml name."""
    for version, name in enumerate(
        ("trellis-database", "trellis-store", "huggingface", "postgres-app", "minio", "ray-token", "trellis-keys"), 1
    ):
        cluster.put(name, version, some="dGhpbmc=")
    for name in ("demo-trellis-tls", "trellis-tls"):
        cluster.put(name, 50, **{"ca.crt": CA, "tls.crt": CA, "tls.key": "a2V5"})
    return cluster


def upgraded(values: str) -> Rendered:
    return render(values, *ON_A_CLUSTER)


def annotations(rendered: Rendered) -> dict[str, str]:
    found: dict[str, str] = rendered.one("Deployment", f"{rendered.name}-server")["spec"]["template"]["metadata"][
        "annotations"
    ]
    return found


def digests(rendered: Rendered, folder: Path) -> list[str]:
    """Of the objects that the server keeps of Ray's clusters: with another one their pods are replaced."""
    settings = read_settings(rendered, folder)
    return [one["metadata"]["annotations"][manifests.DIGEST] for one in kept(settings)]


def kept(settings: KubeRaySettings) -> list[Object]:
    assert settings.trainers is not None
    assert settings.engines is not None
    return [
        manifests.trainers_cluster(settings, settings.trainers),
        manifests.engines_service(settings, settings.engines, "applications: []"),
    ]


def fetches(rendered: Rendered) -> dict[str, str]:
    """By base model: the name of the Job that fetches it."""
    jobs = [one["metadata"] for one in rendered.all("Job") if "-fetch-" in one["metadata"]["name"]]
    return {one["annotations"]["trellis.dev/base-model"]: one["name"] for one in jobs}


def test_other_credentials_of_the_store_replace_servers_and_ray_s_pods(given: Cluster, tmp_path: Path) -> None:
    before = upgraded("production")
    given.put("trellis-store", 99, some="b3RoZXI=")
    after = upgraded("production")
    assert annotations(before)["trellis.dev/secrets"].startswith("trellis-database=1,trellis-store=2,")
    assert annotations(after)["trellis.dev/secrets"].startswith("trellis-database=1,trellis-store=99,")
    for old, new in zip(digests(before, tmp_path), digests(after, tmp_path), strict=True):
        assert old != new
    assert fetches(before)["llama-3-1-8b"] == fetches(after)["llama-3-1-8b"]


def test_another_url_of_the_database_replaces_servers_alone(given: Cluster, tmp_path: Path) -> None:
    before = upgraded("given-secrets")
    given.put("postgres-app", 99, uri="b3RoZXI=")
    after = upgraded("given-secrets")
    assert annotations(before)["trellis.dev/secrets"] != annotations(after)["trellis.dev/secrets"]
    assert digests(before, tmp_path) == digests(after, tmp_path)


def test_another_token_of_ray_replaces_its_pods(given: Cluster, tmp_path: Path) -> None:
    before = upgraded("given-secrets")
    given.put("ray-token", 99, auth_token="b3RoZXI=")
    after = upgraded("given-secrets")
    for old, new in zip(digests(before, tmp_path), digests(after, tmp_path), strict=True):
        assert old != new
    (trainers, _) = kept(read_settings(after, tmp_path))
    head = trainers["spec"]["headGroupSpec"]["template"]["metadata"]
    assert head["annotations"]["trellis.dev/secrets"] == "minio=5,ray-token=99"


def test_a_secret_of_a_kind_of_pod_s_own_replaces_that_cluster(given: Cluster, tmp_path: Path) -> None:
    own = 'ray.engines.head.secretEnvironment={"KEY": {"secret": "mine", "key": "k"}}'
    given.put("mine", 7, k="b25l")
    before = render("production", *ON_A_CLUSTER, "--set-json", own)
    given.put("mine", 8, k="dHdv")
    after = render("production", *ON_A_CLUSTER, "--set-json", own)
    (trainers, engines), (new_trainers, new_engines) = digests(before, tmp_path), digests(after, tmp_path)
    assert trainers == new_trainers
    assert engines != new_engines


def test_a_renewed_certificate_replaces_nothing_and_another_ca_the_servers(given: Cluster) -> None:
    before = upgraded("production")
    given.put("demo-trellis-tls", 99, **{"ca.crt": CA, "tls.crt": "bmV3", "tls.key": "bmV3"})
    assert annotations(upgraded("production")) == annotations(before)
    given.put("demo-trellis-tls", 100, **{"ca.crt": "b3RoZXI=", "tls.crt": "bmV3", "tls.key": "bmV3"})
    assert annotations(upgraded("production")) != annotations(before)


def test_another_token_of_the_hub_has_its_models_fetched_anew(given: Cluster) -> None:
    """A Job that was refused has ended for good, and one of the same name would not be made again."""
    before = fetches(upgraded("production"))
    given.put("huggingface", 99, token="bmV3")
    after = fetches(upgraded("production"))
    assert before["llama-3-1-8b"] != after["llama-3-1-8b"]
    assert before["house-model"] == after["house-model"]


def test_where_nothing_changed_nothing_is_replaced_and_no_content_is_told(given: Cluster) -> None:
    first, second = upgraded("given-secrets"), upgraded("given-secrets")
    assert first.text == second.text
    for one in given.secrets.values():
        for value in one["data"].values():
            assert value not in first.text


def test_without_a_cluster_nothing_is_said_of_secrets(production: Rendered) -> None:
    assert "trellis.dev/secrets" not in production.text


def test_reloader_is_told_by_annotations_of_the_deployment() -> None:
    told = 'server.annotations={"secret.reloader.stakater.com/reload": "trellis-database,trellis-store"}'
    metadata = render("production", "--set-json", told).one("Deployment", "demo-trellis-server")["metadata"]
    assert metadata["annotations"] == {"secret.reloader.stakater.com/reload": "trellis-database,trellis-store"}
