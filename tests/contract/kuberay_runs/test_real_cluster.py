"""What only a real API server shows: watches from too long ago, bookmarks of its own, TLS, and accounts' tokens."""

import asyncio
from pathlib import Path

import pytest
from tests.helm_chart import Object
from tests.kube.real_store import RealStore
from tests.kube.rig import REAL, Kube

from trellis.server.clusters.kuberay.api import KubeApi
from trellis.server.clusters.kuberay.connection import kubeconfig
from trellis.server.clusters.kuberay.refusals import Gone
from trellis.server.clusters.kuberay.resources import CONFIG_MAPS

pytestmark = pytest.mark.skipif(not REAL, reason="TRELLIS_TEST_KUBERNETES names no kubeconfig of a cluster")
MAP: Object = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"value": "1"}}


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
