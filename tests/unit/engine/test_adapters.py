from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.workshop import Workshop

from trellis.artifacts import WEIGHTS_FILE
from trellis.engine import AdapterCache, AdapterLoader, LoadedAdapter
from trellis.errors import InvalidArgument, NotFound, Reason, ResourceExhausted


def test_an_adapter_is_loaded_with_its_scalings(workshop: Workshop) -> None:
    adapter = workshop.adapter(11, rank=2, targets=("q_proj",))
    assert set(adapter.pairs) == {f"model.layers.{n}.self_attn.q_proj" for n in range(2)}
    pair = adapter.pairs["model.layers.0.self_attn.q_proj"]
    assert (pair.a_RI.shape, pair.b_OR.shape, pair.scaling) == ((2, 32), (32, 2), 2.0)


def test_nothing_under_the_key_is_not_found(workshop: Workshop) -> None:
    with pytest.raises(NotFound, match=r"manifest\.json"):
        workshop.loader.load("a" * 64, "adapters/none")


def test_weights_that_are_gone_are_not_found(workshop: Workshop) -> None:
    digest = workshop.store_adapter(12)
    workshop.store.delete(f"adapters/{digest}/{WEIGHTS_FILE}")
    with pytest.raises(NotFound, match="adapter_model"):
        workshop.loader.load(digest, f"adapters/{digest}")


def test_another_digest_than_the_manifests_is_refused(workshop: Workshop) -> None:
    digest = workshop.store_adapter(13)
    refuse(workshop.loader, "b" * 64, f"adapters/{digest}", "has the digest")


def test_changed_weights_are_refused(workshop: Workshop) -> None:
    digest = workshop.store_adapter(14)
    key = f"adapters/{digest}/{WEIGHTS_FILE}"
    data = bytearray(workshop.store.read_bytes(key))
    data[-1] ^= 1
    workshop.store.put_bytes(key, bytes(data))
    refuse(workshop.loader, digest, f"adapters/{digest}", "not the file that its manifest lists")


def test_an_adapter_of_another_base_revision_is_refused(workshop: Workshop) -> None:
    digest = workshop.store_adapter(15, base_revision="sha256:other")
    refuse(workshop.loader, digest, f"adapters/{digest}", "base revision")


def test_an_adapter_of_another_tokenizer_is_refused(workshop: Workshop) -> None:
    digest = workshop.store_adapter(16)
    loader = AdapterLoader(workshop.store, workshop.facts, "another")
    refuse(loader, digest, f"adapters/{digest}", "tokenizer")


def test_a_digest_that_is_a_path_is_refused(workshop: Workshop) -> None:
    refuse(workshop.loader, "../secrets", "adapters/x", "hexadecimal")


def refuse(loader: AdapterLoader, digest: str, key: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why) as caught:
        loader.load(digest, key)
    assert caught.value.reason == Reason.ADAPTER_INVALID


class CountingLoads:
    def __init__(self) -> None:
        self.loads: list[str] = []
        self.fail = False

    def __call__(self, digest: str, _key: str) -> LoadedAdapter:
        self.loads.append(digest)
        if self.fail:
            raise NotFound.for_resource(digest)
        return LoadedAdapter(digest, {})


def test_the_least_recently_used_goes_first() -> None:
    loads = CountingLoads()
    evicted: list[None] = []
    cache = AdapterCache(2, loads, on_evict=lambda: evicted.append(None))
    for digest in ("a", "b", "a", "c", "a", "b"):
        with cache.using(digest, "key") as adapter:
            assert adapter.digest == digest
    assert loads.loads == ["a", "b", "c", "b"]
    assert cache.loaded() == ["a", "b"]
    assert len(evicted) == 2


def test_an_adapter_in_use_stays() -> None:
    cache = AdapterCache(2, CountingLoads())
    with cache.using("a", "key"):
        for digest in ("b", "c"):
            with cache.using(digest, "key"):
                pass
        assert "a" in cache.loaded()
        with cache.using("d", "key"), pytest.raises(ResourceExhausted) as caught:
            cache.acquire("e", "key")
    assert caught.value.reason == Reason.ENGINE_BUSY
    assert cache.pinned() == 0
    with cache.using("e", "key"):
        pass


def test_a_failed_load_leaves_no_trace() -> None:
    loads = CountingLoads()
    loads.fail = True
    cache = AdapterCache(1, loads)
    with pytest.raises(NotFound):
        cache.acquire("a", "key")
    assert (cache.loaded(), cache.pinned()) == ([], 0)
    loads.fail = False
    with cache.using("b", "key"):
        pass


def test_two_who_want_the_same_adapter_load_it_once() -> None:
    started, go = threading.Event(), threading.Event()
    loads: list[str] = []

    def load(digest: str, _key: str) -> LoadedAdapter:
        loads.append(digest)
        started.set()
        assert go.wait(10)
        return LoadedAdapter(digest, {})

    cache = AdapterCache(1, load)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(cache.acquire, "a", "key")
        assert started.wait(10)
        second = threads.submit(cache.acquire, "a", "key")
        go.set()
        assert first.result(10) is second.result(10)
    assert (loads, cache.pinned()) == (["a"], 2)
