from __future__ import annotations

import pytest
from tests.workshop import Workshop

from trellis.artifacts import WEIGHTS_FILE
from trellis.engine import AdapterLoader
from trellis.errors import InvalidArgument, NotFound, Reason


def test_an_adapter_is_loaded_as_the_bank_has_it(workshop: Workshop) -> None:
    ref = workshop.adapter(11, rank=10, targets=("q_proj",))
    adapter = workshop.loader.load(ref.digest, ref.key)
    facts = workshop.facts.linear_shapes
    numbers = sum(10 * sum(shape) for path, shape in facts.items() if path.endswith("q_proj"))
    assert (adapter.digest, adapter.layout.rank, adapter.values) == (ref.digest, 10, numbers)
    assert adapter.nbytes == 4 * numbers


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
    loader = AdapterLoader(workshop.store, workshop.facts, "another", workshop.runner.bank)
    refuse(loader, digest, f"adapters/{digest}", "tokenizer")


def test_a_digest_that_is_a_path_is_refused(workshop: Workshop) -> None:
    refuse(workshop.loader, "../secrets", "adapters/x", "hexadecimal")


def refuse(loader: AdapterLoader, digest: str, key: str, why: str) -> None:
    with pytest.raises(InvalidArgument, match=why) as caught:
        loader.load(digest, key)
    assert caught.value.reason == Reason.ADAPTER_INVALID
