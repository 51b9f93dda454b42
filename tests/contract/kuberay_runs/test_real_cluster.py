"""What only a real API server shows: watches from too long ago, bookmarks of its own, TLS, and accounts' tokens."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes.utils.quantity import parse_quantity
from tests.helm_chart import OLDEST, VALUES, Object, render
from tests.kube.real import namespace_of
from tests.kube.real_store import RealStore
from tests.kube.rig import REAL, Kube
from tests.kube.statuses import StatusError

from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.connection import kubeconfig
from trellis.server.clusters.kuberay.refusals import Gone
from trellis.server.clusters.kuberay.resources import CONFIG_MAPS

pytestmark = pytest.mark.skipif(not REAL, reason="TRELLIS_TEST_KUBERNETES names no kubeconfig of a cluster")
MAP: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"value": "1"}}
_DEFINED_BY_OTHERS = (
    "gateway.networking.k8s.io",
    "monitoring.coreos.com",
    "cert-manager.io",
    "kueue.x-k8s.io",
    "ray.io",
)

_SINCE = {"matchLabelKeys": 27, "podFailurePolicy": 26, "unhealthyPodEvictionPolicy": 27}
"""Fields, and the 1.x that first took them unasked; a server before drops them."""
_PROBES_BY_GRPC = 24
_EARLIER = {("policy/v1", "PodDisruptionBudget"): ("policy/v1beta1", 21)}
"""Kinds that an older server has by another version, and the 1.x that has this one."""


@pytest.fixture
def store() -> Iterator[RealStore]:
    found = RealStore(Path(REAL))
    with namespace_of(found):
        yield found
    found.close()


async def test_a_watch_from_too_long_ago_is_gone(stand_in: Kube) -> None:
    stand_in.server.permissions = None
    api = stand_in.api()
    with pytest.raises(Gone):
        async with asyncio.timeout(20):
            async for _ in api.watch(CONFIG_MAPS, "1", 15):
                pass
    await api.close()


async def test_a_quiet_watch_is_told_how_far_it_is(stand_in: Kube) -> None:
    stand_in.server.permissions = None
    api = stand_in.api()
    await api.create(CONFIG_MAPS, MAP)  # of what has never changed, nothing is told
    version = (await api.list(CONFIG_MAPS)).resource_version
    async for change in api.watch(CONFIG_MAPS, version, 90):
        if change.kind == "BOOKMARK":
            break
        assert change.kind == "OPENED"
    assert int(change.object["metadata"]["resourceVersion"]) >= int(version)
    await api.close()


async def test_over_tls_by_a_kubeconfig(store: RealStore) -> None:
    api = KubeApi(store.real, kubeconfig(Path(REAL)))
    made = await api.create(CONFIG_MAPS, MAP)
    assert made is not None
    assert await api.create(CONFIG_MAPS, MAP) is None
    assert (await api.get(CONFIG_MAPS, "a") or {})["data"] == {"value": "1"}
    await api.close()


@pytest.mark.parametrize("values", VALUES)
def test_the_chart_is_taken(store: RealStore, values: str) -> None:
    """Every object of it, tried on the server and not kept; what the server does not know of a field is a fault."""
    taken, problems = 0, []
    minor = int(store.call("GET", "/version")["gitVersion"].split(".")[1])
    objects = render(values, "--namespace", "trellis").objects
    for given in sorted(objects, key=lambda one: bool(one["kind"] != "ServiceAccount")):
        one = _as_before(given, minor) if minor < int(OLDEST.split(".")[1]) else given
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
        kept = {name: value for name, value in one.items() if name not in {"stringData", "status"}}
        problems += [f"{one['kind']} {one['metadata']['name']}: {lost}" for lost in _lost(kept, made, "")]
    assert problems == []
    assert taken > 12


def _as_before(one: Object, minor: int) -> Object:
    """The object for a server that is older than the chart allows: without what came later, and nothing else."""
    version, since = _EARLIER.get((one["apiVersion"], one["kind"]), (one["apiVersion"], 0))
    found: Object = _without_newer(one, minor)
    return {**found, "apiVersion": version} if minor < since else found


def _without_newer(one: Any, minor: int) -> Any:
    if isinstance(one, list):
        return [_without_newer(item, minor) for item in one]
    if not isinstance(one, dict):
        return one
    kept = {name: value for name, value in one.items() if minor >= _newest(name, value)}
    return {name: _without_newer(value, minor) for name, value in kept.items()}


def _newest(name: str, value: object) -> int:
    return (
        _PROBES_BY_GRPC
        if name.endswith("Probe") and isinstance(value, dict) and "grpc" in value
        else _SINCE.get(name, 0)
    )


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
