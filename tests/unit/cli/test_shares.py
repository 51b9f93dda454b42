"""`trellis adapters share` and what belongs to it."""

from collections.abc import Callable

from tests.fake_server import FakeServer
from tests.unit.cli.conftest import Ran

from trellis.v1.adapter_pb2 import Adapter

Run = Callable[..., Ran]


def test_adapters_are_shared_and_shares_ended(trellis: Run, server: FakeServer) -> None:
    name = "tenants/acme/adapters/" + "a" * 24
    server.adapters.adapters[name] = Adapter(name=name, rank=4)
    shared = trellis("adapters", "share", "a" * 24, "globex", "--format", "json").json
    assert shared == {"adapter": name, "tenant": "tenants/globex", "create_time": None}
    assert trellis("adapters", "shares", name, "--format", "json").json == [shared]
    assert "tenants/globex" in trellis("adapters", "shares", name).out
    listed = trellis("adapters", "shared", "--tenant", "globex", "--format", "json").json
    assert [one["name"] for one in listed] == [name]
    assert trellis("adapters", "shared").out.splitlines()[0].startswith("NAME")
    ended = trellis("adapters", "unshare", name, "globex", "--format", "json").json
    assert ended == {"adapter": name, "unshared": "globex"}
    assert "can't call" in trellis("adapters", "unshare", name, "globex").err
    assert trellis("adapters", "shares", name, "--format", "json").json == []
