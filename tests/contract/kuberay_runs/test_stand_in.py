"""The stand-in for Kubernetes itself: its answers have the shapes that Kubernetes and KubeRay publish."""

import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from tests.contract.kuberay_runs.rig import Servers, printing, until, until_in
from tests.kube.faults import Fault
from tests.kube.kinds import ALL, CUSTOM
from tests.kube.rig import REAL, Kube
from tests.kube.rules import core_shape_errors
from tests.kube.server import TOKEN
from tests.kuberay_settings import LAPTOP, a_run
from tests.kubernetes_schemas import NEWEST, OLDEST, custom_errors

from trellis.server.app.hosts import RunStatus
from trellis.server.clusters.kuberay.manifests import engines_service, ray_job, trainers_cluster
from trellis.server.clusters.kuberay.resources import (
    CONFIG_MAPS,
    PERMISSIONS,
    PODS,
    RAY_CLUSTERS,
    RAY_JOBS,
    RAY_SERVICES,
    SECRETS,
    Object,
    Resource,
    name_of,
    uid_of,
)

MAP: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}}


class Http:
    """Calls without any client of ours."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def call(
        self, method: str, path: str, body: object = None, content: str = "application/json", token: str = TOKEN
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": content}
        data = None if body is None else json.dumps(body)
        async with self._session.request(method, self._url + path, data=data, headers=headers) as response:
            text = await response.text()
            return response.status, json.loads(text) if response.content_type == "application/json" else text


@pytest.fixture
async def http(stand_in: Kube) -> AsyncIterator[Http]:
    stand_in.server.permissions = None
    async with aiohttp.ClientSession() as session:
        yield Http(session, stand_in.server.url)


def path(kind: Resource, name: str = "") -> str:
    return kind.path("trellis", name)


async def refusals(http: Http, stand_in: Kube) -> AsyncIterator[tuple[int, str, tuple[int, Any]]]:
    """Each way to say no: the code and the reason that the real one gives, and what was answered."""
    await http.call("POST", path(CONFIG_MAPS), MAP)
    yield 409, "AlreadyExists", await http.call("POST", path(CONFIG_MAPS), MAP)
    yield 404, "NotFound", await http.call("GET", path(CONFIG_MAPS, "nothing"))
    yield 404, "NotFound", await http.call("POST", CONFIG_MAPS.path("nowhere"), MAP)
    yield 401, "Unauthorized", await http.call("GET", path(CONFIG_MAPS), token="wrong")
    yield 400, "BadRequest", await http.call("POST", path(CONFIG_MAPS), {**MAP, "data": {"k": 1}})
    yield 422, "Invalid", await http.call("POST", path(CONFIG_MAPS), {**MAP, "metadata": {}})
    yield 400, "BadRequest", await http.call("POST", path(SECRETS), MAP)
    yield 400, "BadRequest", await http.call("GET", path(CONFIG_MAPS) + "?fieldSelector=data.k=v")
    yield 405, "MethodNotAllowed", await http.call("OPTIONS", path(CONFIG_MAPS))
    merge = "application/merge-patch+json"
    stale = {"metadata": {"resourceVersion": "7"}}
    yield 409, "Conflict", await http.call("PATCH", path(CONFIG_MAPS, "a"), stale, merge)
    yield 422, "Invalid", await http.call("PATCH", path(CONFIG_MAPS, "a"), {"metadata": {"uid": "other"}}, merge)
    yield 415, "UnsupportedMediaType", await http.call("PATCH", path(CONFIG_MAPS, "a"), {}, "application/json")
    uid = {"preconditions": {"uid": "other"}}
    yield 409, "Conflict", await http.call("DELETE", path(CONFIG_MAPS, "a"), uid)
    stand_in.faults.plan("list", "configmaps", Fault(status=500))
    yield 500, "InternalError", await http.call("GET", path(CONFIG_MAPS))
    stand_in.server.permissions = PERMISSIONS
    yield 403, "Forbidden", await http.call("GET", path(SECRETS, "a"))


async def test_every_no_is_a_status(http: Http, stand_in: Kube) -> None:
    async for code, reason, (status, body) in refusals(http, stand_in):
        where = (code, reason, body)
        assert status == body["code"] == code, where
        assert (body["kind"], body["status"], body["reason"]) == ("Status", "Failure", reason), where
        assert [*core_shape_errors(body, OLDEST), *core_shape_errors(body, NEWEST)] == [], where
        assert body["message"], where


async def test_a_kind_that_nobody_defines_is_said_in_plain_text(http: Http) -> None:
    assert await http.call("GET", "/apis/ray.io/v1/namespaces/trellis/raytrains") == (404, "404 page not found\n")


async def test_too_many_requests_are_said_in_plain_text(http: Http, stand_in: Kube) -> None:
    stand_in.faults.plan("list", "configmaps", Fault(status=429, retry_after="1"))
    said = await http.call("GET", path(CONFIG_MAPS))
    assert said == (429, "Too many requests, please try again later.\n")


async def test_what_is_kept_and_told_has_the_published_shapes(servers: Servers, http: Http) -> None:
    kube, cluster = servers.kube, servers.new()
    workers = a_run(submission_id="trellis-with-workers", worker_gpus=0.0)
    for one in (printing("x"), workers):
        await cluster.submit(one)
    kube.store.create(RAY_CLUSTERS, "trellis", trainers_cluster(LAPTOP, LAPTOP.trainers or pytest.fail("none")))
    serve = '{"applications": [{"name": "tiny", "import_path": "a:b"}]}'
    kube.store.create(RAY_SERVICES, "trellis", engines_service(LAPTOP, LAPTOP.engines or pytest.fail("none"), serve))
    await until_in(cluster, printing("x"), RunStatus.SUCCEEDED)
    await until_in(cluster, workers, RunStatus.FAILED, RunStatus.SUCCEEDED)
    await until(lambda: servers.objects("RayService")[0].get("status", {}).get("serviceStatus") == "Running")
    seen = 0
    for kind in ALL:
        status, listed = await http.call("GET", path(kind))
        assert (status, listed["kind"]) == (200, f"{kind.kind}List")
        for one in listed["items"]:
            seen += 1
            named = {"apiVersion": kind.api_version, "kind": kind.kind, **one}
            errors = custom_errors(named) if kind in CUSTOM else core_shape_errors(named, NEWEST)
            assert errors == [], (kind.kind, name_of(one))
        if kind not in CUSTOM:
            assert core_shape_errors(listed) == []
    assert seen > 15
    for change in kube.store.history:
        if change.resource not in CUSTOM:
            assert core_shape_errors(change.object) == [], change


async def test_a_watch_tells_what_happened_since(http: Http, stand_in: Kube) -> None:
    _, made = await http.call("POST", path(CONFIG_MAPS), MAP)
    since = made["metadata"]["resourceVersion"]
    await http.call("PATCH", path(CONFIG_MAPS, "a"), {"data": {"k": "w"}}, "application/merge-patch+json")
    status, gone = await http.call("DELETE", path(CONFIG_MAPS, "a"), {"preconditions": {"uid": uid_of(made)}})
    assert (status, gone["status"]) == (200, "Success")
    assert core_shape_errors(gone) == []
    stand_in.server.bookmark_seconds = 0.2
    events = await watched(stand_in, f"timeoutSeconds=1&resourceVersion={since}")
    assert [event["type"] for event in events] == ["MODIFIED", "DELETED"]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert versions == sorted(versions)
    assert versions[0] > int(since)
    assert all(core_shape_errors(event["object"]) == [] for event in events[:2])


@pytest.mark.skipif(bool(REAL), reason="Kubernetes itself tells it once a minute")
async def test_a_watch_that_asks_is_told_how_far_it_is(http: Http, stand_in: Kube) -> None:
    _, made = await http.call("POST", path(CONFIG_MAPS), MAP)
    since = made["metadata"]["resourceVersion"]
    stand_in.server.bookmark_seconds = 0.2
    events = await watched(stand_in, f"allowWatchBookmarks=true&timeoutSeconds=1&resourceVersion={since}")
    assert {event["type"] for event in events} == {"BOOKMARK"}
    assert {event["object"]["metadata"]["resourceVersion"] for event in events} == {since}


async def test_the_log_of_a_pod_without_a_node_is_no_content(http: Http, stand_in: Kube) -> None:
    stand_in.operator.works = False
    spec = {"containers": [{"name": "c", "image": "i"}]}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec}
    stand_in.store.create(PODS, "trellis", pod)
    for query in ("", "?container=c", "?container=c&tailLines=10"):
        assert await http.call("GET", path(PODS, "a") + "/log" + query) == (204, "")
    status, said = await http.call("GET", path(PODS, "a") + "/log?container=nothing")
    assert (status, said["reason"]) == (400, "BadRequest")
    status, said = await http.call("GET", path(PODS, "gone") + "/log")
    assert (status, said["reason"]) == (404, "NotFound")


async def watched(stand_in: Kube, query: str) -> list[Any]:
    url = f"{stand_in.server.url}{path(CONFIG_MAPS)}?watch=true&{query}"
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return [json.loads(line) async for line in response.content]


async def test_what_the_definitions_forbid_is_refused(http: Http) -> None:
    body = ray_job(LAPTOP, a_run())
    custom_errors(body)  # skips where the definitions are not at hand
    wrong = {**body, "spec": {**body["spec"], "backoffLimit": "none"}}
    status, said = await http.call("POST", path(RAY_JOBS), wrong)
    assert status == 422
    assert [cause["field"] for cause in said["details"]["causes"]] == ["spec.backoffLimit"]


@pytest.mark.skipif(bool(REAL), reason="Kubernetes itself drops such a field and says so in a header")
async def test_the_stand_in_refuses_even_a_field_that_nobody_knows(http: Http) -> None:
    body = ray_job(LAPTOP, a_run())
    custom_errors(body)
    status, said = await http.call("POST", path(RAY_JOBS), {**body, "spec": {**body["spec"], "entrypont": "misspelt"}})
    assert status == 422
    assert [cause["field"] for cause in said["details"]["causes"]] == ["spec.entrypont"]


async def test_a_definitions_defaults_are_filled_in_and_a_status_is_not_taken(http: Http, stand_in: Kube) -> None:
    stand_in.operator.works = False
    body = ray_job(LAPTOP, a_run())
    custom_errors(body)
    del body["spec"]["submissionMode"], body["spec"]["ttlSecondsAfterFinished"]
    _, made = await http.call("POST", path(RAY_JOBS), {**body, "status": {"jobStatus": "SUCCEEDED"}})
    assert (made["spec"]["submissionMode"], made["spec"]["ttlSecondsAfterFinished"]) == ("K8sJobMode", 0)
    assert "status" not in made
    assert made["metadata"]["generation"] == 1
    change = {"spec": {"suspend": True}, "status": {"jobStatus": "SUCCEEDED"}}
    _, changed = await http.call("PATCH", path(RAY_JOBS, name_of(made)), change, "application/merge-patch+json")
    assert changed["metadata"]["generation"] == 2
    assert "status" not in changed
