from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

from hypothesis import given, strategies as st
from ray import cloudpickle
from ray.serve._private.common import DeploymentHandleSource, DeploymentID, ReplicaID, RequestMetadata
from ray.serve.request_router import PendingRequest

from trellis.serving import routing
from trellis.serving.routing import MAX_DIGESTS, AdapterRouter, Standing, rank, residency, standing

ADAPTER = "ab" * 32
IDS = ["a", "b", "c", "d"]


def free(*replicas: str) -> list[Standing]:
    return [Standing(replica, 0) for replica in replicas]


def first(ranks: list[list[str]]) -> list[str]:
    return next(rank for rank in ranks if rank)


def test_who_has_it_in_the_bank_is_asked_first() -> None:
    standings = [Standing("a", 0), Standing("b", 3, in_bank=True), Standing("c", 0, in_memory=True)]
    assert first(rank(standings, ADAPTER, slack=4)) == ["b"]
    assert rank(standings, ADAPTER, slack=4) == [["b"], ["c"], ["a"], []]


def test_of_several_that_have_it_the_least_busy_is_asked() -> None:
    standings = [Standing("a", 2, in_bank=True), Standing("b", 1, in_bank=True), Standing("c", 0)]
    assert first(rank(standings, ADAPTER, slack=4)) == ["a", "b"], "Serve takes the least busy one of a rank"


def test_a_hot_adapter_spreads() -> None:
    standings = [Standing("a", 9, in_bank=True), Standing("b", 4), Standing("c", 5, in_memory=True)]
    assert rank(standings, ADAPTER, slack=4) == [[], ["c"], ["b"], ["a"]]
    assert first(rank(standings, ADAPTER, slack=5)) == ["a"]


def test_a_new_adapter_has_one_place_wherever_it_is_asked_for() -> None:
    choices = {tuple(first(rank(free(*order), ADAPTER, 4))) for order in (IDS, IDS[::-1], ["c", "a", "d", "b"])}
    assert len(choices) == 1
    (choice,) = choices
    others = [replica for replica in IDS if replica != choice[0]]
    without_another = [replica for replica in IDS if replica != others[0]]
    assert first(rank(free(*without_another), ADAPTER, 4)) == list(choice), "others come and go"


def test_new_adapters_are_dealt_out() -> None:
    chosen = [first(rank(free(*IDS), f"{n:064x}", 4))[0] for n in range(400)]
    assert all(60 < chosen.count(replica) < 140 for replica in IDS)


def test_the_base_alone_goes_by_load() -> None:
    standings = [Standing("a", 9), Standing("b", 0), Standing("c", 1)]
    assert rank(standings, "", slack=4) == [["b", "c"], ["a"]]
    assert rank([], "", slack=4) == []


standings = st.lists(
    st.builds(Standing, st.sampled_from(IDS), st.integers(0, 40), st.booleans(), st.booleans()),
    unique_by=lambda s: s.replica,
)


@given(standings, st.sampled_from(["", ADAPTER]), st.integers(0, 20))
def test_every_replica_is_there_once_and_the_least_busy_is_never_last(
    found: list[Standing], adapter: str, slack: int
) -> None:
    ranks = rank(found, adapter, slack)
    flat = [replica for ids in ranks for replica in ids]
    assert sorted(flat) == sorted(s.replica for s in found)
    load = {s.replica: s.load for s in found}
    if found:
        assert all(load[replica] <= min(load.values()) + slack for replica in first(ranks))


def test_what_a_replica_tells_is_understood_and_bounded() -> None:
    told = residency([ADAPTER], ["cd" * 32])
    assert standing("a", 3, ADAPTER, told) == Standing("a", 3, in_bank=True)
    assert standing("a", 3, "cd" * 32, told) == Standing("a", 3, in_memory=True)
    assert standing("a", 3, "", told) == Standing("a", 3)
    assert standing("a", 3, ADAPTER, {}) == standing("a", 3, ADAPTER, None) == Standing("a", 3)
    many = residency([], [f"{n:064x}" for n in range(5000)])["memory"]
    assert len(many) == MAX_DIGESTS
    assert all(len(prefix) == 16 for prefix in many)


class Replica:
    def __init__(self, name: str, **told: list[str]) -> None:
        self.replica_id = ReplicaID(name, DeploymentID("engine", "app"))
        self.routing_stats = told
        self.max_ongoing_requests = 100

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return 0


def router(*replicas: Any) -> AdapterRouter:
    made = AdapterRouter(
        DeploymentID("engine", "app"), DeploymentHandleSource.UNKNOWN, use_replica_queue_len_cache=True
    )
    made.initialize_state(slack=2)
    made.update_replicas(list(replicas))
    return made


def pending(digest: str = "") -> PendingRequest:
    return PendingRequest(
        [], {}, RequestMetadata(request_id="r", internal_request_id=str(id(object())), session_id=digest)
    )


async def chosen(made: AdapterRouter, digest: str) -> str:
    async with asyncio.timeout(10):
        found: Any = await made._choose_replica_for_request(pending(digest))
    made.on_send_request(found.replica_id)
    return str(found.replica_id.unique_id)


async def test_serves_router_goes_by_residency_until_the_replica_is_too_busy() -> None:
    made = router(Replica("a"), Replica("b", bank=[ADAPTER[:16]]))
    await asyncio.sleep(0)
    assert [await chosen(made, ADAPTER) for _ in range(4)] == ["b", "b", "b", "a"]
    assert [await chosen(made, "") for _ in range(2)] == ["a", "a"]


async def test_serves_router_remembers_no_call_that_it_has_sent_on() -> None:
    made = router(Replica("a"), Replica("b"))
    for n in range(50):
        await chosen(made, f"{n:064x}")
    kept = (made._pending_requests_by_model_id, made._pending_requests_by_id, made._pending_requests_to_route)
    assert [len(each) for each in kept] == [0, 0, 0]


def test_proxies_can_read_it_without_us() -> None:
    cloudpickle.register_pickle_by_value(routing)
    try:
        data = cloudpickle.dumps(AdapterRouter)
    finally:
        cloudpickle.unregister_pickle_by_value(routing)
    program = (
        "import sys; sys.modules['trellis'] = None; from ray import cloudpickle;"
        " copy = cloudpickle.loads(sys.stdin.buffer.read());"
        " print(copy.choose_replicas.__globals__['rank']([], '', 1))"
    )
    ended = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, check=False)
    assert (ended.stdout.strip(), ended.returncode) == (b"[]", 0), ended.stderr
