from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from trellis.engine import AdapterRef
from trellis.objects import ObjectStore
from trellis.serving.follower import WantedFollower
from trellis.wanted_adapters import MAX_WANTED, WantedAdapter, WantedAdapters, WantedError, wanted_key

KEY = wanted_key("tiny.v1")


def adapters(*names: str) -> WantedAdapters:
    return WantedAdapters(tuple(WantedAdapter(name, f"adapters/{name}") for name in names))


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(str(tmp_path))


@pytest.fixture
def follower(store: ObjectStore) -> WantedFollower:
    return WantedFollower(store, KEY, lambda _: None)


def digests(follower: WantedFollower) -> list[str]:
    return [ref.digest for ref in follower._adapters]


def test_a_list_is_read_as_it_was_written() -> None:
    wanted = adapters("a", "b")
    assert WantedAdapters.from_json(wanted.to_json()) == wanted
    assert WantedAdapters.from_json(adapters().to_json()).adapters == ()


def test_a_long_list_is_cut_to_those_that_are_wanted_most() -> None:
    wanted = adapters(*(str(n) for n in range(MAX_WANTED + 5)))
    read = WantedAdapters.from_json(wanted.to_json())
    assert read.adapters == wanted.adapters[:MAX_WANTED]


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"adapters": 3}', b'{"adapters": [["a"]]}', b'{"adapters": [[1, 2]]}']
)
def test_what_is_no_list_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(WantedError):
        WantedAdapters.from_json(data)


def test_a_replica_follows_the_list(follower: WantedFollower, store: ObjectStore) -> None:
    follower.read()
    assert digests(follower) == []
    store.put_bytes(KEY, adapters("a", "b").to_json())
    follower.read()
    assert digests(follower) == ["a", "b"]
    store.put_bytes(KEY, adapters("b").to_json())
    follower.read()
    assert digests(follower) == ["b"]


def test_a_list_that_cant_be_read_changes_nothing(
    follower: WantedFollower, store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.put_bytes(KEY, adapters("a").to_json())
    follower.read()
    store.put_bytes(KEY, b"nonsense")
    follower.read()
    follower.read()
    assert digests(follower) == ["a"]
    assert len(caplog.records) == 1, "and is complained of once"
    store.put_bytes(KEY, adapters("c").to_json())
    follower.read()
    assert digests(follower) == ["c"]


def test_the_engine_is_told_at_once_and_again(store: ObjectStore) -> None:
    told: list[Sequence[AdapterRef]] = []
    store.put_bytes(KEY, adapters("a").to_json())

    def want(refs: Sequence[AdapterRef]) -> None:
        told.append(refs)
        if len(told) == 2:
            watched.stop()

    watched = WantedFollower(store, KEY, want)
    watched.start()
    watched._thread.join(30)
    assert told == [(AdapterRef("a", "adapters/a"),)] * 2
