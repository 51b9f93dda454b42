"""The chart on a real API server: every object is taken, and an installation comes, changes, goes back and goes."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from kubernetes.utils.quantity import parse_quantity
from tests.helm_chart import CHART, RELEASE, VALUES, Object, render, run_helm
from tests.kube.older_chart import chart_for
from tests.kube.real_store import RealStore
from tests.kube.rig import REAL
from tests.kube.statuses import StatusError

pytestmark = pytest.mark.skipif(not REAL, reason="TRELLIS_TEST_KUBERNETES names no kubeconfig of a cluster")
_DEFINED_BY_OTHERS = (
    "gateway.networking.k8s.io",
    "monitoring.coreos.com",
    "cert-manager.io",
    "kueue.x-k8s.io",
    "ray.io",
)
_CHANGES = (
    "labels.a=b",
    "image.pullPolicy=Never",
    "server.replicas=3",
    "bases.fetch.retries=3",
    "server.drainSeconds=7",
)
_OF_KUBERNETES = {("ServiceAccount", "default"), ("ConfigMap", "kube-root-ca.crt"), ("ResourceQuota", "no-pods")}
_HOOK = ("Job", f"{RELEASE}-trellis-migrate-upgrade")
Objects = dict[tuple[str, str], Object]


@pytest.fixture
def chart(store: RealStore, tmp_path: Path) -> Path:
    return chart_for(int(store.call("GET", "/version")["gitVersion"].split(".")[1]), tmp_path)


@pytest.mark.parametrize("values", VALUES)
def test_it_is_taken(store: RealStore, chart: Path, values: str) -> None:
    """Every object of it, tried on the server and not kept; what the server does not know of a field is a fault."""
    taken, problems = 0, []
    objects = render(values, "--namespace", "trellis", chart=chart).objects
    for one in sorted(objects, key=lambda one: bool(one["kind"] != "ServiceAccount")):
        one["metadata"].pop("namespace", None)
        plural = _plural(store, one)
        if plural is None:
            assert one["apiVersion"].split("/")[0] in _DEFINED_BY_OTHERS, f"{one['apiVersion']} {one['kind']}"
            continue
        # A pod is taken only if its account is there.
        query = {} if one["kind"] == "ServiceAccount" else {"dryRun": "All"}
        try:
            made = store.call("POST", plural, one, fieldValidation="Strict", **query)
        except StatusError as error:
            problems.append(f"{one['kind']} {one['metadata']['name']}: {error}")
            continue
        taken += 1
        problems += _differences(one, made)
    assert problems == []
    assert taken > 12


def test_an_installation_is_upgraded_rolled_back_and_uninstalled(store: RealStore, chart: Path) -> None:
    release = Release(store, chart)
    release.helm("install")
    first = release.objects()
    release.upgrade(*_CHANGES, "networkPolicy.enabled=false")
    upgraded = release.objects()
    assert {kind for kind, _ in first.keys() - upgraded.keys()} == {"NetworkPolicy", "Job"}
    release.upgrade(*_CHANGES)
    assert release.objects().keys() - upgraded.keys() == {key for key in first if key[0] == "NetworkPolicy"}
    assert run_helm("rollback", RELEASE, "1", *release.where).returncode == 0
    again = release.objects()
    assert _specs(again) == _specs(first)
    secrets = {key: one["data"] for key, one in first.items() if key[0] == "Secret"}
    assert len(secrets) == 3
    assert {key: again[key]["data"] for key in secrets} == secrets
    release.uninstall()
    release.helm("install")
    assert {key: release.objects()[key]["data"] for key in secrets} == secrets, "it finds what is kept, and goes on"
    release.uninstall()


class Release:
    """An installation by Helm with the values of a laptop. None of its pods is let in: nothing would play them."""

    def __init__(self, store: RealStore, chart: Path) -> None:
        self._store, self._chart = store, chart
        self.where = ("--namespace", store.real, "--kubeconfig", REAL)
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "no-pods"}}
        path = f"/api/v1/namespaces/{store.real}/resourcequotas"
        store.call("POST", path, {**quota, "spec": {"hard": {"pods": "0"}}})

    def helm(self, verb: str, *changes: str) -> None:
        """Install or upgrade."""
        sets = [word for one in changes for word in ("--set", one)]
        values = ("--values", str(CHART / "ci" / "laptop-values.yaml"))
        done = run_helm(verb, RELEASE, str(self._chart), *values, *self.where, *sets)
        assert done.returncode == 0, done.stderr

    def upgrade(self, *changes: str) -> None:
        """With its hook, the migration, which is said to have done its work."""
        with ThreadPoolExecutor(1) as pool:
            before = self._hook()
            doing = pool.submit(self.helm, "upgrade", *changes)
            while not doing.done():
                hook = self._hook()
                if hook is not None and (before is None or hook["metadata"]["uid"] != before["metadata"]["uid"]):
                    self._complete(hook)
                    before = hook
                time.sleep(0.05)
            doing.result()

    def objects(self) -> Objects:
        """Those of the release, as the server has them: as they were given, and no other is there."""
        said = run_helm("get", "manifest", RELEASE, *self.where).stdout.replace(self._store.real, "trellis")
        given = [one for one in yaml.safe_load_all(said) if one]
        found: Objects = {}
        for one in given:
            plural = _plural(self._store, one)
            assert plural is not None
            made = self._store.call("GET", f"{plural}/{one['metadata']['name']}")
            assert _differences(one, made) == []
            found[one["kind"], one["metadata"]["name"]] = made
        kinds = {kind for kind, _ in found}
        there = {key for key in self.labelled() if key[0] in kinds} - {_HOOK}
        assert {key for key in there if not key[1].startswith("data-")} == found.keys()
        return found

    def uninstall(self) -> None:
        """What stays is what the documentation says."""
        kept = {
            key
            for key, one in self.objects().items()
            if "helm.sh/resource-policy" in one["metadata"].get("annotations", {})
        }
        assert {kind for kind, _ in kept} == {"Secret", "PersistentVolumeClaim"}
        done = run_helm("uninstall", RELEASE, "--wait", *self.where)
        assert done.returncode == 0, done.stderr
        postgresql = ("PersistentVolumeClaim", f"data-{RELEASE}-trellis-postgresql-0")
        hook = {_HOOK} if self._hook() else set()
        end = time.monotonic() + 60.0
        while (left := self.everything()) != {*kept, postgresql, *hook}:  # who collects the rest takes its time
            assert time.monotonic() < end, left ^ {*kept, postgresql, *hook}
            time.sleep(0.5)
        assert self.labelled() == left, "by this label all can be deleted"

    def labelled(self) -> set[tuple[str, str]]:
        """What has the label of the release."""
        return self.everything(labelSelector=f"app.kubernetes.io/instance={RELEASE}-trellis")

    def everything(self, **query: str) -> set[tuple[str, str]]:
        """Of every kind in the namespace: kind and name."""
        groups = [group["preferredVersion"]["groupVersion"] for group in self._store.call("GET", "/apis")["groups"]]
        found: set[tuple[str, str]] = set()
        for root in ("/api/v1", *(f"/apis/{group}" for group in groups)):
            for kind in self._store.call("GET", root)["resources"]:
                if kind["namespaced"] and "list" in kind["verbs"] and kind["kind"] != "Event":
                    path = f"{root}/namespaces/{self._store.real}/{kind['name']}"
                    for one in self._store.call("GET", path, **query).get("items") or []:
                        found.add((kind["kind"], one["metadata"]["name"]))
        return {(kind, name) for kind, name in found - _OF_KUBERNETES if not name.startswith("default-token-")}

    def _hook(self) -> Object | None:
        try:
            return self._store.call("GET", f"/apis/batch/v1/namespaces/{self._store.real}/jobs/{_HOOK[1]}")
        except StatusError:
            return None

    def _complete(self, job: Object) -> None:
        now = job["metadata"]["creationTimestamp"]
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": now} for kind in ("SuccessCriteriaMet", "Complete")
        ]
        status = {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": conditions}
        path = f"/apis/batch/v1/namespaces/{self._store.real}/jobs/{_HOOK[1]}/status"
        self._store.call("PATCH", path, {"status": status}, "application/merge-patch+json")


def _specs(objects: Objects) -> Objects:
    """A Job that is made again has a selector of its own."""
    return {key: {} if key[0] == "Job" else one.get("spec", {}) for key, one in objects.items()}


def _differences(given: Object, made: Object) -> list[str]:
    kept = {name: value for name, value in given.items() if name not in {"stringData", "status"}}
    return [f"{given['kind']} {given['metadata']['name']}: {lost}" for lost in _lost(kept, made, "")]


def _plural(store: RealStore, one: Object) -> str | None:
    """Where such objects are made; None where the cluster does not know the kind."""
    version = one["apiVersion"]
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    try:
        kinds = store.call("GET", root)["resources"]
    except StatusError:
        return None
    found = next((kind for kind in kinds if kind["kind"] == one["kind"] and "/" not in kind["name"]), None)
    if found is None:
        return None
    return f"{root}/namespaces/{store.real}/{found['name']}" if found["namespaced"] else f"{root}/{found['name']}"


def _lost(given: object, made: object, where: str) -> Iterator[str]:
    """What was given and is not there, or is something else."""
    if isinstance(given, dict) and isinstance(made, dict):
        for name, value in given.items():
            if value not in (None, {}, [], "", False, 0):
                yield from _lost(value, made.get(name), f"{where}.{name}")
    elif isinstance(given, list) and isinstance(made, list) and len(given) == len(made):
        for index, (one, other) in enumerate(zip(given, made, strict=True)):
            yield from _lost(one, other, f"{where}[{index}]")
    elif str(given) != str(made) and not _same_quantity(given, made):
        yield f"{where} was {given!r} and is {made!r}"


def _same_quantity(given: object, made: object) -> bool:
    try:
        return bool(parse_quantity(given) == parse_quantity(made))
    except (ValueError, TypeError):
        return False
