"""What is tried again, how often, and after what pauses."""

import grpc
import pytest
from tests.client_rig import Rig, all_of, got, make
from tests.fake_server import FakeServer

import trellis
from trellis.client import Retry
from trellis.client._transport import OPTIONS
from trellis.errors import Aborted, Cancelled, ResourceExhausted, Unavailable

GONE = grpc.StatusCode.UNAVAILABLE


async def test_an_unavailable_server_is_tried_again_with_growing_pauses(rig: Rig) -> None:
    rig.server.faults.plan("CreateTenant", GONE, GONE, GONE)
    await got(rig.client.tenants.create("acme"))
    assert rig.time.slept == pytest.approx([0.075, 0.15, 0.3])


async def test_it_gives_up_after_so_many_attempts(rig: Rig) -> None:
    rig.server.faults.plan("GetTenant", *[GONE] * 9)
    with pytest.raises(trellis.Unavailable):
        await got(rig.client.tenants.get("acme"))
    assert rig.server.faults.count("GetTenant") == 5


async def test_a_call_that_grpc_itself_has_cancelled_is_tried_again(rig: Rig) -> None:
    """As it reached a server that was just ending."""
    rig.server.faults.plan("CreateTenant", grpc.StatusCode.CANCELLED)
    await got(rig.client.tenants.create("acme"))
    rig.server.faults.plan("GetTenant", Cancelled("SERVER_STOPPING", "By the server's own word."))
    with pytest.raises(trellis.Cancelled):
        await got(rig.client.tenants.get("acme"))
    assert rig.server.faults.count("GetTenant") == 1


async def test_the_servers_own_pause_is_kept(rig: Rig) -> None:
    rig.server.faults.plan("GetTenant", Unavailable("SERVER_STOPPING", "Wait.", retry_after=7.0))
    with pytest.raises(trellis.NotFound):
        await got(rig.client.tenants.get("acme"))
    assert rig.time.slept == [7.0]


async def test_a_pause_beyond_the_deadline_is_not_begun(rig: Rig) -> None:
    rig.server.faults.plan("GetTenant", Unavailable("SERVER_STOPPING", "Wait.", retry_after=31.0))
    with pytest.raises(trellis.Unavailable):
        await got(rig.client.tenants.get("acme"))
    assert rig.time.slept == []


async def test_a_lost_race_is_tried_again_when_the_server_says_so(rig: Rig) -> None:
    rig.server.faults.plan("CreateTenant", Aborted("ETAG_MISMATCH", "Busy.", retry_after=0.1))
    await got(rig.client.tenants.create("acme"))
    rig.server.faults.plan("CreateTenant", Aborted("ETAG_MISMATCH", "Changed."))
    with pytest.raises(trellis.Aborted):
        await got(rig.client.tenants.create("other"))


async def test_a_create_carries_one_request_id_over_all_its_attempts(rig: Rig) -> None:
    rig.server.faults.plan("CreateTenant", GONE)
    await got(rig.client.tenants.create("a"))
    await got(rig.client.tenants.create("b"))
    await got(rig.client.tenants.create("c", request_id="mine"))
    ids = rig.server.tenants.request_ids
    assert len(set(ids)) == 3
    assert all(ids)
    assert ids[2] == "mine"


async def test_a_key_is_never_created_twice(rig: Rig) -> None:
    rig.server.faults.plan("CreateApiKey", GONE)
    with pytest.raises(trellis.Unavailable):
        await got(rig.client.api_keys.create())
    assert rig.server.faults.count("CreateApiKey") == 1


async def test_a_delete_that_may_have_happened_is_done(rig: Rig) -> None:
    rig.server.faults.plan("DeleteTenant", GONE)
    await got(rig.client.tenants.delete("acme"))
    with pytest.raises(trellis.NotFound):
        await got(rig.client.tenants.delete("acme"))


async def test_other_errors_are_not_tried_again(rig: Rig) -> None:
    rig.server.faults.plan("GetTenant", grpc.StatusCode.INTERNAL)
    with pytest.raises(trellis.InternalError):
        await got(rig.client.tenants.get("acme"))
    assert rig.server.faults.count("GetTenant") == 1


@pytest.mark.parametrize("kind", ["Client", "AsyncClient"])
async def test_retries_can_be_switched_off(server: FakeServer, kind: str) -> None:
    rig = make(kind, server, attempts=1)
    server.faults.plan("ListTenants", GONE)
    with pytest.raises(trellis.Unavailable):
        await all_of(rig.client.tenants.list())
    await rig.close()


async def test_a_restarted_server_is_found_again(rig: Rig) -> None:
    await got(rig.client.tenants.create("acme"))
    rig.server.stop()
    rig.time.on_sleep = rig.server.start
    assert (await got(rig.client.tenants.get("acme"))).name == "tenants/acme"


async def test_a_model_without_room_is_asked_again(rig: Rig) -> None:
    busy = ResourceExhausted("ENGINE_BUSY", "Full.", retry_after=2.0)
    rig.server.faults.plan("Generate", busy, Unavailable("ENGINE_UNAVAILABLE", "Starting.", retry_after=3.0))
    assert (await got(rig.client.generate("support", "hi"))).text == "hi "
    assert rig.time.slept == [2.0, 3.0]


def test_pauses_double_up_to_the_longest_with_jitter_from_half_to_all() -> None:
    retry = Retry(attempts=99, first_pause=1.0, longest_pause=6.0)
    assert [retry.pause(n, None, 0.0) for n in (1, 2, 3, 4, 98)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert retry.pause(3, None, 1.0) == 4.0
    assert retry.pause(99, None, 0.5) is None


def test_a_server_that_is_back_is_found_before_the_last_attempt() -> None:
    """Those of several that are gone are looked for at gRPC's own pace: a fifth over the longest pause at most."""
    retry, reconnect_seconds = Retry(), dict(OPTIONS)["grpc.max_reconnect_backoff_ms"] / 1000
    assert sum(retry.backoff(attempt, chance=0.0) for attempt in range(1, retry.attempts)) > 1.2 * reconnect_seconds
