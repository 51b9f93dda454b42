from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st
from tests.tiny_bank import Events, Held, load_tiny, ref, tiny_bank, tiny_tiers

from trellis.engine.request import AdapterRef
from trellis.engine.tiers import AdapterTiers, TierEvent
from trellis.errors import InternalError, InvalidArgument, NotFound
from trellis.lora.host import HostAdapter


def stock(tiers: AdapterTiers, *digests: str, copies: int = 9) -> int:
    """Fetch what is wanted, and then what came of it into the bank."""
    wanted = [ref(digest) for digest in digests]
    tiers.stock(wanted, 0)
    assert tiers.poll() == []
    return tiers.stock(wanted, copies)


def test_an_adapter_comes_from_the_store_into_the_host_into_the_bank() -> None:
    events, held = Events(), Held()
    tiers = tiny_tiers(tiny_bank(), held, on_event=events)
    woken: list[None] = []
    tiers.on_load_end = lambda: woken.append(None)
    assert tiers.stock([ref("a")], 1) == 0
    assert (tiers.loading, tiers.is_at_hand("a"), tiers.has_news) == (1, False, False)
    assert tiers.stock([ref("a")], 1) == 0
    assert len(held.held) == 1
    held.release()
    assert (len(woken), tiers.has_news, tiers.is_at_hand("a")) == (1, True, False)
    assert tiers.poll() == []
    assert (tiers.loading, tiers.is_at_hand("a"), tiers.is_resident("a")) == (0, True, False)
    assert tiers.stock([ref("a")], 1) == 1
    assert tiers.is_resident("a")
    assert events.seen == [TierEvent.FETCHED, TierEvent.COPIED]


def test_so_many_are_copied_at_once_and_no_more() -> None:
    tiers = tiny_tiers(tiny_bank())
    assert stock(tiers, "a", "b", "c", copies=2) == 2
    assert tiers.resident_digests == ("a", "b")


def test_the_least_recently_used_is_evicted_and_comes_back_from_the_host() -> None:
    events = Events()
    tiers = tiny_tiers(tiny_bank(slots=2), on_event=events)
    stock(tiers, "a", "b")
    tiers.pin("a")
    tiers.unpin("a")
    assert stock(tiers, "c") == 1
    assert set(tiers.resident_digests) == {"a", "c"}
    assert stock(tiers, "b") == 1
    assert (events.count(TierEvent.FETCHED), events.count(TierEvent.COPIED)) == (3, 4)
    assert events.count(TierEvent.EVICTED) == 2


def test_what_is_in_use_or_needed_sooner_stays() -> None:
    tiers = tiny_tiers(tiny_bank(slots=2))
    stock(tiers, "a", "b")
    tiers.pin("a")
    assert stock(tiers, "b", "c") == 0
    assert set(tiers.resident_digests) == {"a", "b"}
    tiers.unpin("a")
    assert stock(tiers, "b", "c") == 1
    assert set(tiers.resident_digests) == {"b", "c"}


def test_nothing_is_evicted_in_vain_and_none_goes_past_one_that_lacks_room() -> None:
    bank = tiny_bank(rows=24, slots=8)
    tiers = tiny_tiers(bank)
    stock(tiers, "a", "b", "c")
    tiers.pin("a")
    tiers.pin("b")
    large = [ref("large", rank=16), ref("small")]
    tiers.stock(large, 0)
    tiers.poll()
    assert tiers.stock(large, 2) == 0
    assert set(tiers.resident_digests) == {"a", "b", "c"}
    assert not tiers.would_fit("large", frozenset())
    assert tiers.would_fit("large", frozenset({"a"}))
    tiers.unpin("a")
    assert tiers.stock(large, 2) == 1
    assert set(tiers.resident_digests) == {"b", "large"}


def test_one_that_never_fits_is_refused_and_so_is_one_that_is_not_there() -> None:
    bank = tiny_bank(rows=8)

    def load(digest: str, key: str) -> HostAdapter:
        if key == "none":
            raise NotFound.for_resource(digest)
        if key == "broken":
            raise RuntimeError("disk on fire")
        return load_tiny(bank)(digest, key)

    held = Held()
    tiers = AdapterTiers(bank, load, held)
    for digest, key in (("large", "16"), ("gone", "none"), ("odd", "broken")):
        tiers.fetch(AdapterRef(digest, key))
    held.release(3)
    failed = {found.digest: found.error for found in tiers.poll()}
    assert isinstance(failed["large"], InvalidArgument)
    assert isinstance(failed["gone"], NotFound)
    assert isinstance(failed["odd"], InternalError)
    assert (tiers.loading, tiers.host_digests) == (0, ())
    tiers.fetch(ref("gone"))  # another try
    held.release()
    assert tiers.poll() == []
    assert tiers.is_at_hand("gone")


def test_the_hosts_memory_is_bounded_but_for_what_is_wanted_soon() -> None:
    bank = tiny_bank()
    size = load_tiny(bank)("x", "8").nbytes
    events = Events()
    tiers = tiny_tiers(bank, host_bytes=2 * size, on_event=events)
    stock(tiers, "a", "b", "c")
    assert tiers.host_bytes == 2 * size
    stock(tiers, "d", "e", "f", copies=0)
    assert {"d", "e", "f"} <= set(tiers.host_digests)
    stock(tiers, "f", copies=0)
    assert tiers.host_bytes <= 2 * size
    assert events.count(TierEvent.DROPPED) == 4


def test_an_adapter_that_nobody_uses_can_be_forgotten() -> None:
    bank = tiny_bank()
    tiers = tiny_tiers(bank)
    stock(tiers, "a", "b")
    tiers.pin("a")
    tiers.forget("a")
    tiers.forget("b")
    tiers.forget("unknown")
    assert (tiers.resident_digests, tiers.host_digests) == (("a",), ("a",))
    tiers.unpin("a")
    tiers.forget("a")
    assert bank.values_free == bank.size


def test_what_is_parked_may_be_evicted_but_comes_back_from_the_host() -> None:
    bank = tiny_bank(slots=1)
    tiers = tiny_tiers(bank, host_bytes=3 * load_tiny(bank)("x", "8").nbytes)
    stock(tiers, "a")
    for _ in range(2):
        tiers.pin("a")
    tiers.park("a")
    assert stock(tiers, "b", "c", "d") == 1
    tiers.forget("a")
    assert (tiers.resident_digests, tiers.is_at_hand("a"), tiers.pins) == (("b",), True, 2)
    tiers.unpin("a")
    assert tiers.copy("a")
    assert tiers.resume("a") == 0
    assert not tiers.copy("c"), "it is in use again"
    tiers.unpin("a")
    assert tiers.copy("c")
    assert tiers.pins == 0


def test_what_is_in_use_is_the_last_that_the_hosts_memory_drops() -> None:
    bank = tiny_bank()
    size = load_tiny(bank)("x", "8").nbytes
    tiers = tiny_tiers(bank, host_bytes=2 * size)
    stock(tiers, "a")
    tiers.pin("a")
    stock(tiers, "b", "c", "d", copies=0)
    assert set(tiers.host_digests) == {"b", "c", "d"}
    stock(tiers, "d", "e")
    assert "a" not in tiers.host_digests
    tiers.unpin("a")


def test_letting_go_twice_is_a_bug() -> None:
    tiers = tiny_tiers(tiny_bank())
    stock(tiers, "a")
    tiers.pin("a")
    tiers.unpin("a")
    with pytest.raises(AssertionError):
        tiers.unpin("a")


@settings(deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.lists(st.sampled_from("abcdef"), max_size=5, unique=True), st.integers(0, 2)), max_size=25
    )
)
def test_room_is_accounted_for_whatever_is_wanted(steps: list[tuple[list[str], int]]) -> None:
    ranks = dict(zip("abcdef", (8, 8, 16, 16, 24, 40), strict=True))
    bank = tiny_bank(rows=40, slots=3)
    tiers = tiny_tiers(bank, host_bytes=2000)
    pinned: list[str] = []
    for wanted, ends in steps:
        tiers.poll()
        tiers.stock([ref(digest, ranks[digest]) for digest in wanted], 2)
        for digest in wanted:
            if tiers.is_resident(digest):
                tiers.pin(digest)
                pinned.append(digest)
        for digest in pinned[:ends]:
            tiers.unpin(digest)
        del pinned[:ends]
        assert set(pinned) <= set(tiers.resident_digests)
        assert bank.rows_used == sum(ranks[digest] for digest in tiers.resident_digests)
        assert tiers.pins == len(pinned)
    for digest in pinned:
        tiers.unpin(digest)
    for digest in tiers.resident_digests:
        tiers.forget(digest)
    assert (bank.values_free, tiers.pins) == (bank.size, 0)
