"""The stand-in, and servers of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.kuberay_runs.rig import Servers
from tests.kube.rig import Kube, kube


@pytest.fixture
async def stand_in(tmp_path: Path) -> AsyncIterator[Kube]:
    async with kube(tmp_path) as one:
        yield one


@pytest.fixture
async def servers(stand_in: Kube) -> AsyncIterator[Servers]:
    some = Servers(stand_in)
    yield some
    await some.close()
