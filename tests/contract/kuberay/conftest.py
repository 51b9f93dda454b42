"""A cluster of Kubernetes with KubeRay's operator, for each test anew."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.kube.rig import Kube, kube

from trellis.server.clusters.kuberay.api import KubeApi


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Kube]:
    async with kube(tmp_path) as one:
        yield one


@pytest.fixture
async def api(cluster: Kube) -> AsyncIterator[KubeApi]:
    one = cluster.api()
    yield one
    await one.close()
