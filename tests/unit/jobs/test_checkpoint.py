"""Checkpoints count only when they are committed and sound."""

from pathlib import Path

import pytest
import torch

from trellis.objects import ObjectStore
from trellis_jobs.checkpoint import Checkpoints, Snapshot


@pytest.fixture
def empty_store(tmp_path: Path) -> ObjectStore:
    return ObjectStore.open(str(tmp_path / "checkpoints-store"))


def snapshot(step: int) -> Snapshot:
    return Snapshot(step, {"a": torch.full((2,), float(step))}, {"a.step": torch.tensor(1.0)}, {"trained_tokens": step})


def test_a_checkpoint_reads_back(empty_store: ObjectStore) -> None:
    checkpoints = Checkpoints(empty_store, "job", 1)
    committed = checkpoints.save(snapshot(5))
    assert committed.size_bytes == sum(found.size for found in empty_store.list("job") if "COMMIT" not in found.key)
    found = checkpoints.resume(committed.key, 5)
    assert found is not None
    assert found.step == 5
    assert torch.equal(found.adapter["a"], torch.full((2,), 5.0))
    assert found.state == {"trained_tokens": 5}


def test_uncommitted_and_broken_ones_give_way_to_older_ones(empty_store: ObjectStore) -> None:
    checkpoints = Checkpoints(empty_store, "job", 1)
    old, newer, newest = (checkpoints.save(snapshot(step)) for step in (5, 10, 15))
    empty_store.delete(f"{newest.key}/COMMIT")
    empty_store.put_bytes(f"{newer.key}/adapter_model.safetensors", b"broken")
    second = Checkpoints(empty_store, "job", 2)
    found = second.resume(newest.key, 15)
    assert found is not None
    assert found.step == 5
    empty_store.delete_prefix(old.key)
    assert second.resume(newest.key, 15) is None


def test_nothing_newer_than_asked_for_is_resumed(empty_store: ObjectStore) -> None:
    checkpoints = Checkpoints(empty_store, "job", 1)
    for step in (5, 10):
        checkpoints.save(snapshot(step))
    found = checkpoints.resume("job/step-00000007-attempt-1", 7)
    assert found is not None
    assert found.step == 5
