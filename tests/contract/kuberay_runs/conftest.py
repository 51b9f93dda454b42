"""The stand-in, servers of it, and a real cluster's objects."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.contract.kuberay_runs.rig import Servers
from tests.kube.real import namespace_of
from tests.kube.real_store import RealStore
from tests.kube.rig import REAL, Kube, kube


@pytest.fixture
async def stand_in(tmp_path: Path) -> AsyncIterator[Kube]:
    async with kube(tmp_path) as one:
        yield one


@pytest.fixture
async def servers(stand_in: Kube) -> AsyncIterator[Servers]:
    some = Servers(stand_in)
    yield some
    await some.close()


@pytest.fixture
def store() -> Iterator[RealStore]:
    """Of the cluster that TRELLIS_TEST_KUBERNETES names, in a namespace of its own."""
    found = RealStore(Path(REAL))
    with namespace_of(found):
        yield found
    found.close()
