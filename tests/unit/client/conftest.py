"""A fake server, and each test with both clients."""

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.client_rig import Rig, make
from tests.fake_server import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        yield running


@pytest.fixture(params=["Client", "AsyncClient"])
async def rig(request: pytest.FixtureRequest, server: FakeServer) -> AsyncIterator[Rig]:
    made = make(request.param, server)
    yield made
    await made.close()
