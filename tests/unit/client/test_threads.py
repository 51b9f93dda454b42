"""A client of several threads."""

from concurrent.futures import ThreadPoolExecutor

from tests.client_rig import make
from tests.fake_server import FakeServer


def test_threads_share_a_client(server: FakeServer) -> None:
    rig = make("Client", server)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: rig.client.tenants.create(f"t{number}").name, range(40)))
    assert made == [f"tenants/t{number}" for number in range(40)]
    assert len(list(rig.client.tenants.list())) == 40
    rig.client.close()
