"""Who reaches whom: every pair of parties is tried on every port, and nothing is let through but what stands here."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from tests.helm_chart import Rendered, read_settings, render
from tests.network_policies import Party, allows, enters, leaves

from trellis.server.app.hosts import RunRequest
from trellis.server.clusters.kuberay import manifests
from trellis.server.clusters.kuberay.settings import KubeRaySettings

API, JOBS, METRICS, DASHBOARD, SERVE, GCS = 50051, 50052, 8000, 8265, 8000, 6379
DATABASE, HTTPS, DNS, OTLP, RAY_METRICS = 5432, 443, 53, 4317, 8080
PORTS = (API, JOBS, METRICS, DASHBOARD, GCS, DATABASE, HTTPS, DNS, OTLP, RAY_METRICS, 10001, 22)
ALL = set(PORTS)
NAMES = {DNS, -DNS}
Reached = dict[tuple[str, str], set[int]]


def run_of(name: str) -> RunRequest:
    return RunRequest(name, ("python",), {}, 0.0, 0.0, {}, workers=2, worker_cpus=1.0, own_cluster=True)


def ray_pods(settings: KubeRaySettings) -> Iterator[Party]:
    """As the server makes them, with the labels that KubeRay adds."""
    assert settings.trainers is not None
    assert settings.engines is not None
    trainers = manifests.trainers_cluster(settings, settings.trainers)["spec"]
    engines = manifests.engines_service(settings, settings.engines, "applications: []")["spec"]["rayClusterConfig"]
    yield from cluster_pods("trainers", trainers)
    yield from cluster_pods("engines", engines)
    for run in ("run-a", "run-b"):
        spec = manifests.ray_job(settings, run_of(run))["spec"]
        yield from cluster_pods(run, spec["rayClusterSpec"])
        submitter = spec["submitterPodTemplate"]["metadata"]["labels"]
        yield Party(f"{run} submitter", {**submitter, "batch.kubernetes.io/job-name": run}, "tuning")


def cluster_pods(name: str, spec: dict[str, Any]) -> Iterator[Party]:
    for kind, group in (("head", spec["headGroupSpec"]), ("worker", spec["workerGroupSpecs"][0])):
        of_kuberay = {"ray.io/cluster": name, "ray.io/node-type": kind, "ray.io/is-ray-node": "yes"}
        of_kuberay |= {"app.kubernetes.io/name": "kuberay", "app.kubernetes.io/created-by": "kuberay-operator"}
        yield Party(f"{name} {kind}", {**of_kuberay, **group["template"]["metadata"]["labels"]}, "tuning")


def parties(rendered: Rendered, settings: KubeRaySettings) -> list[Party]:
    own = {}
    for _, metadata, _ in rendered.pods():
        component = metadata["labels"]["app.kubernetes.io/component"]
        own[component] = Party(component, metadata["labels"], "tuning")
    others = [
        Party("client", {"trellis.dev/client": "true"}, "tuning"),
        Party("neighbour", {"app": "other"}, "tuning"),
        Party("stranger", {"app.kubernetes.io/component": "server"}, "elsewhere"),
        Party("gateway", {"app": "envoy"}, "gateways"),
        Party("prometheus", {"app.kubernetes.io/name": "prometheus"}, "monitoring"),
        Party("collector", {"app": "otel"}, "tracing"),
        Party("operator", {"app.kubernetes.io/name": "kuberay-operator"}, "kuberay"),
        Party("dns", {"k8s-app": "kube-dns"}, "kube-system"),
        Party("the node's dns", address="169.254.20.10"),
        Party("the cloud's metadata", address="169.254.169.254"),
        Party("S3", address="10.30.0.5"),
        Party("the database", address="10.20.0.5"),
        Party("Kubernetes", address="10.0.0.1"),
        Party("identity provider", address="10.40.0.10"),
        Party("internet", address="93.184.216.34"),
    ]
    return [*own.values(), *ray_pods(settings), *others]


def policies_of(rendered: Rendered, settings: KubeRaySettings) -> list[dict[str, Any]]:
    of_runs = [manifests.run_network_policy(settings, run_of(run), "uid") for run in ("run-a", "run-b")]
    for one in of_runs:
        one["metadata"]["namespace"] = "tuning"
    return [*rendered.all("NetworkPolicy"), *of_runs]


def reached(rendered: Rendered, settings: KubeRaySettings) -> Reached:
    """By source and target: the ports, where at least one of both belongs to the release."""
    everyone, policies = parties(rendered, settings), policies_of(rendered, settings)
    found: Reached = {}
    for source, target in product(everyone, everyone):
        if not {belongs(source, settings), belongs(target, settings)} & {True}:
            continue
        ports = {port for port in PORTS if allows(policies, source, target, port)}
        if allows(policies, source, target, DNS, "UDP"):
            ports.add(-DNS)
        if ports:
            found[source.name, target.name] = ports
    return found


def belongs(party: Party, settings: KubeRaySettings) -> bool:
    return (party.labels or {}).get("app.kubernetes.io/instance") == settings.name


def within(*names: str) -> Reached:
    """All pods of a cluster reach each other on every port."""
    return {pair: ALL | {-DNS} for pair in product(names, names)}


CLUSTERS = {
    **within("trainers head", "trainers worker"),
    **within("engines head", "engines worker"),
    **within("run-a head", "run-a worker", "run-a submitter"),
    **within("run-b head", "run-b worker", "run-b submitter"),
}
RAY = ("trainers head", "trainers worker", "engines head", "engines worker")
OF_RUNS = ("run-a head", "run-a worker", "run-a submitter", "run-b head", "run-b worker", "run-b submitter")
REPORTING = ("trainers head", "trainers worker", *OF_RUNS)
COMMON: Reached = {
    **CLUSTERS,
    ("client", "server"): {API},
    ("test", "server"): {API},
    **{(one, "server"): {JOBS} for one in REPORTING},
    **{("server", one): {DASHBOARD} for one in RAY[:2]},
    **{("server", one): {DASHBOARD, SERVE} for one in RAY[2:]},
    **{("operator", one): {DASHBOARD} for one in (*RAY[:2], *OF_RUNS)},
    **{("operator", one): {DASHBOARD, SERVE} for one in RAY[2:]},
    **{
        (one, names): NAMES
        for one in (*RAY, *OF_RUNS, "server", "migration", "bases", "test")
        for names in ("dns", "the node's dns")
    },
}


def test_in_production_everybody_reaches_what_they_need_and_nothing_else(production: Rendered, tmp_path: Path) -> None:
    expected: Reached = {
        **COMMON,
        ("gateway", "server"): {API},
        ("prometheus", "server"): {METRICS},
        **{("prometheus", one): {RAY_METRICS} for one in (*RAY, *OF_RUNS)},
        **{(one, "collector"): {OTLP} for one in (*RAY, *OF_RUNS, "server")},
        **{(one, "S3"): {HTTPS} for one in (*RAY, *OF_RUNS, "server", "bases")},
        ("server", "the database"): {DATABASE},
        ("migration", "the database"): {DATABASE},
        ("server", "identity provider"): {HTTPS},
        **{(one, "Kubernetes"): {HTTPS} for one in ("server", "trainers head", "engines head")},
        ("bases", "internet"): {HTTPS},
    }
    assert_same(reached(production, read_settings(production, tmp_path)), expected)


def test_a_laptop_s_database_is_reached_by_servers_and_migrations_alone(laptop: Rendered, tmp_path: Path) -> None:
    found = reached(laptop, read_settings(laptop, tmp_path))
    assert {source for (source, target) in found if target == "postgresql"} == {"server", "migration"}
    assert {target for (source, target) in found if source == "postgresql"} == set()
    assert {source for (source, target) in found if target == "internet"} == {"bases"}
    assert found["server", "Kubernetes"] == {HTTPS}
    for name, ports in COMMON.items():
        assert ports <= found[name], name


@pytest.mark.parametrize("source", ["run-a head", "run-a worker"])
def test_a_tenant_s_run_reaches_no_other_s_and_nothing_of_the_platform_s(
    production: Rendered, tmp_path: Path, source: str
) -> None:
    found = reached(production, read_settings(production, tmp_path))
    own = {"run-a head", "run-a worker", "run-a submitter"}
    targets = {target: ports for (one, target), ports in found.items() if one == source and target not in own}
    assert targets == {"server": {JOBS}, "S3": {HTTPS}, "dns": NAMES, "the node's dns": NAMES, "collector": {OTLP}}


def test_the_model_itself_lets_all_through_where_there_is_no_policy(production: Rendered, tmp_path: Path) -> None:
    everyone = parties(production, read_settings(production, tmp_path))
    assert all(allows([], source, target, 22) for source, target in product(everyone, everyone))


def test_a_run_without_its_policy_has_no_neighbour(production: Rendered, tmp_path: Path) -> None:
    settings = read_settings(production, tmp_path)
    pods = {one.name: one for one in ray_pods(settings)}
    assert not allows(production.all("NetworkPolicy"), pods["run-a worker"], pods["run-a head"], GCS)


@pytest.mark.parametrize("values", ["production", "laptop"])
def test_both_ends_of_a_connection_within_the_release_say_the_same(values: str, tmp_path: Path) -> None:
    narrow = 'networkPolicy.kubernetesApi.to=[{"ipBlock": {"cidr": "10.0.0.1/32"}}]'  # any address is pods, too
    rendered = render(values, "--set-json", narrow)
    settings = read_settings(rendered, tmp_path)
    own, policies = (
        [one for one in parties(rendered, settings) if belongs(one, settings)],
        policies_of(rendered, settings),
    )
    for source, target, port in product(own, own, PORTS):
        out, into = leaves(policies, source, target, port), enters(policies, source, target, port)
        assert out == into, f"{source.name} to {target.name} at {port}: out {out}, in {into}"


def assert_same(found: Reached, expected: Reached) -> None:
    wrong = {
        pair: (found.get(pair), expected.get(pair))
        for pair in found.keys() | expected.keys()
        if found.get(pair) != expected.get(pair)
    }
    assert wrong == {}, "what is let through, and what should be"
