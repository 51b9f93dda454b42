"""What engines run stands in their RayService, and what becomes of them is told before their dashboard can be reached."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import yaml
from tests.kube.rig import Kube
from tests.kuberay_settings import LAPTOP

from trellis.errors import Unavailable
from trellis.server.app.hosts import HostState
from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.engines import RayServiceApplications
from trellis.server.clusters.kuberay.resources import RAY_SERVICES, Object
from trellis.server.clusters.kuberay.standing import KubeRayStanding
from trellis.server.clusters.serve import EngineSettings, ServeCluster
from trellis.server.clusters.serve_applications import DashboardApplications
from trellis.server.domain.base_model import BaseModel

BASE = BaseModel(
    "tiny.v1", "", "/models/tiny", "sha256:1", "Llama", 128, 1, 1, "t0", True, True, datetime(2026, 1, 1, tzinfo=UTC)
)
OTHER = replace(BASE, base_model_id="other.v1")
ENGINES, TINY = "trellis-engines", "trellis-tiny.v1"
SETTINGS = EngineSettings("/objects", "s3cret", http_host="trellis-engines-serve-svc", http_port=8000)


class Dashboard:
    """Ray's, as KubeRay configures it from the RayService once `is_up`."""

    def __init__(self, cluster: Kube) -> None:
        self._cluster = cluster
        self.is_up = True
        self.failed: set[str] = set()
        self.lags = False
        """Whether KubeRay has not told it yet what was declared last."""
        self._told: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.method == "GET", "KubeRay is who writes"
        if not self.is_up:
            raise httpx.ConnectError("no route to host", request=request)
        if not self.lags:
            self._told = declared(self._cluster)
        return httpx.Response(200, json={"applications": {app["name"]: self._state(app) for app in self._told}})

    def _state(self, app: dict[str, Any]) -> dict[str, Any]:
        status = "DEPLOY_FAILED" if app["name"] in self.failed else "RUNNING"
        return {"status": status, "message": "", "deployed_app_config": app, "deployments": {}}


def service(cluster: Kube) -> Object:
    return cluster.store.get(RAY_SERVICES, "trellis", ENGINES)


def declared(cluster: Kube) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(service(cluster)["spec"]["serveConfigV2"])["applications"]
    return found


@pytest.fixture
def dashboard(cluster: Kube) -> Dashboard:
    return Dashboard(cluster)


@pytest.fixture
def full(cluster: Kube) -> Kube:
    """No node has room."""
    cluster.kubelet.has_room = False
    return cluster


@pytest.fixture
async def host(api: KubeApi, dashboard: Dashboard) -> ServeCluster:
    settings = replace(LAPTOP, trainers=None)
    await KubeRayStanding(api, settings).keep()
    behind = DashboardApplications("http://dashboard", transport=httpx.MockTransport(dashboard))
    return ServeCluster("", SETTINGS, applications=RayServiceApplications(api, settings, behind))


async def test_engines_are_declared_in_the_service(host: ServeCluster, cluster: Kube) -> None:
    await host.ensure([BASE, OTHER])
    config = yaml.safe_load(service(cluster)["spec"]["serveConfigV2"])
    assert config["http_options"] == {"host": "0.0.0.0", "port": 8000}
    assert config["proxy_location"] == "EveryNode"
    assert [app["name"] for app in config["applications"]] == [TINY, "trellis-other.v1"]
    assert SETTINGS.secret not in json.dumps(service(cluster))
    await host.ensure([OTHER])
    assert [app["name"] for app in declared(cluster)] == ["trellis-other.v1"]


async def test_what_is_declared_is_not_declared_again(host: ServeCluster, cluster: Kube) -> None:
    await host.ensure([BASE])
    written = [verb for verb in cluster.server.asked if verb[2] == "patch"]
    for _ in range(3):
        await host.ensure([BASE])
    assert [verb for verb in cluster.server.asked if verb[2] == "patch"] == written


async def test_states_come_from_the_dashboard(host: ServeCluster, dashboard: Dashboard) -> None:
    await host.ensure([BASE])
    assert await host.states() == {"tiny.v1": (HostState.RUNNING, "")}
    dashboard.failed = {TINY}
    assert (await host.states())["tiny.v1"][0] is HostState.FAILED


async def test_before_there_is_a_dashboard_an_engine_is_starting(
    full: Kube, host: ServeCluster, dashboard: Dashboard
) -> None:
    dashboard.is_up = False
    await host.ensure([BASE])

    async def message() -> str:
        while True:
            state, said = (await host.states())["tiny.v1"]
            assert state is HostState.STARTING
            if "waits for a node" in said:
                return said
            await asyncio.sleep(0.05)

    said = await asyncio.wait_for(message(), 60.0)
    assert "the engines' cluster waits for a node: none has" in said


async def test_what_kuberay_says_of_a_first_cluster_is_told(
    full: Kube, host: ServeCluster, dashboard: Dashboard
) -> None:
    dashboard.is_up = False
    await host.ensure([BASE, OTHER])
    said = {
        "trellis-other.v1": {"status": "RUNNING"},
        TINY: {"status": "DEPLOY_FAILED", "message": "Traceback\nno folder"},
    }
    status = {"pendingServiceStatus": {"rayClusterName": "x", "applicationStatuses": said}}
    await full.operator.close()
    full.store.set_status(RAY_SERVICES, "trellis", ENGINES, {**status, "activeServiceStatus": {}})
    states = await host.states()
    assert states["tiny.v1"] == (HostState.FAILED, "no folder")
    assert states["other.v1"][0] is HostState.STARTING, "it runs, and can't be called yet"


async def test_a_dashboard_that_is_gone_for_a_while_says_nothing_new(
    host: ServeCluster, dashboard: Dashboard, cluster: Kube
) -> None:
    await host.ensure([BASE])
    async with asyncio.timeout(60.0):
        while service(cluster).get("status", {}).get("serviceStatus") != "Running":
            await asyncio.sleep(0.05)
    dashboard.is_up = False
    with pytest.raises(Unavailable):
        await host.states()


async def test_what_failed_is_taken_out_and_declared_again_only_when_serve_has_let_it_go(
    host: ServeCluster, dashboard: Dashboard, cluster: Kube
) -> None:
    now = [0.0]
    host._seconds = lambda: now[0]
    await host.ensure([BASE])
    dashboard.failed = {TINY}
    await host.ensure([BASE])
    now[0], dashboard.lags = 60.0, True
    for _ in range(3):
        await host.ensure([BASE])
        assert declared(cluster) == []
    dashboard.lags, dashboard.failed = False, set()
    await host.ensure([BASE])
    assert [app["name"] for app in declared(cluster)] == [TINY]


async def test_two_servers_do_not_undo_each_others_words(host: ServeCluster, cluster: Kube, api: KubeApi) -> None:
    patch = api.patch

    async def late(resource: Any, name: str, body: dict[str, Any]) -> Object | None:
        api.patch = patch  # type: ignore[method-assign]
        await host._applications.declare({"applications": [{"name": "trellis-other.v1"}]})
        return await patch(resource, name, body)

    api.patch = late  # type: ignore[method-assign, assignment]
    with pytest.raises(Unavailable, match="409"):
        await host.ensure([BASE])
    assert [app["name"] for app in declared(cluster)] == ["trellis-other.v1"]


async def test_without_a_service_engines_are_not_there(host: ServeCluster, cluster: Kube) -> None:
    cluster.store.delete(RAY_SERVICES, "trellis", ENGINES)
    with pytest.raises(Unavailable, match="RayService 'trellis-engines' of the engines is not there"):
        await host.ensure([BASE])
