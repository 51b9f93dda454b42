"""One contract for every kind of object store; S3 is a real server on this machine, spoken to over HTTP: moto, and Swift."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.s3_server import FaultyS3, s3_server
from tests.swift_process import SwiftProcess

from trellis.objects import ObjectInfo, ObjectNotFoundError, ObjectStore


@pytest.fixture(scope="module")
def s3() -> Iterator[FaultyS3]:
    with s3_server() as running:
        yield running


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftProcess]:
    with SwiftProcess(tmp_path_factory.mktemp("swift")) as running:
        yield running


@pytest.fixture(params=["folder", "s3", "swift"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return ObjectStore.open(str(tmp_path / "objects"))
    store: ObjectStore = request.getfixturevalue(request.param).store()
    store.delete_prefix("a")
    return store


def test_what_is_put_is_read_back(store: ObjectStore, tmp_path: Path) -> None:
    store.put_bytes("a/b/one.bin", b"0123456789")
    (tmp_path / "two").write_bytes(b"two")
    store.put_file("a/two", tmp_path / "two")
    assert store.read_bytes("a/b/one.bin") == b"0123456789"
    assert store.size("a/b/one.bin") == 10
    assert store.exists("a/two")
    assert not store.exists("a/b")
    assert store.list("a") == [ObjectInfo("a/b/one.bin", 10), ObjectInfo("a/two", 3)]
    with store.open_read("a/b/one.bin") as stream:
        stream.seek(7)
        assert stream.read() == b"789"
    store.get_file("a/two", tmp_path / "deep" / "copy")
    assert (tmp_path / "deep" / "copy").read_bytes() == b"two"


def test_a_put_replaces(store: ObjectStore) -> None:
    store.put_bytes("a/x", b"old")
    store.put_bytes("a/x", b"new!")
    assert store.read_bytes("a/x") == b"new!"


@pytest.mark.parametrize("server", ["s3", "swift"])
def test_what_others_write_after_a_listing_is_seen(server: str, request: pytest.FixtureRequest) -> None:
    running: FaultyS3 | SwiftProcess = request.getfixturevalue(server)
    ours, theirs = running.store(), running.store()
    theirs.put_bytes("shared/e/task.json", b"1")
    assert [o.key for o in ours.list("shared")] == ["shared/e/task.json"]
    theirs.put_bytes("shared/e/manifest.json", b"22")
    theirs.put_bytes("shared/e/task.json", b"longer")
    assert ours.exists("shared/e/manifest.json")
    assert (ours.size("shared/e/task.json"), ours.read_bytes("shared/e/task.json")) == (6, b"longer")
    theirs.delete("shared/e/task.json")
    assert not ours.exists("shared/e/task.json")
    assert [o.key for o in ours.list("shared")] == ["shared/e/manifest.json"]
    theirs.delete_prefix("shared")


def test_a_write_that_fails_leaves_nothing(store: ObjectStore) -> None:
    store.put_bytes("a/x", b"old")
    for key in ("a/x", "a/y"):
        with pytest.raises(RuntimeError):
            write_half(store, key)
    assert store.read_bytes("a/x") == b"old"
    assert [o.key for o in store.list("a")] == ["a/x"]


def write_half(store: ObjectStore, key: str) -> None:
    with store.writing(key) as stream:
        stream.write(b"half")
        raise RuntimeError


def test_large_objects_go_in_parts(store: ObjectStore) -> None:
    block = bytes(range(256)) * 4096
    with store.writing("a/large") as stream:
        for _ in range(12):
            stream.write(block)
    assert store.size("a/large") == 12 * len(block)
    with store.open_read("a/large") as stream:
        stream.seek(11 * len(block))
        assert stream.read() == block


def test_what_is_deleted_is_gone(store: ObjectStore) -> None:
    for key in ("a/p/1", "a/p/2", "a/q"):
        store.put_bytes(key, b"x")
    store.delete("a/q")
    store.delete("a/q")
    store.delete_prefix("a/p")
    store.delete_prefix("a/p")
    assert store.list("a") == []
    for call in (store.read_bytes, store.size):
        with pytest.raises(ObjectNotFoundError):
            call("a/q")


@pytest.mark.parametrize("key", ["", "/a", "../a", "a/../b", "a//b", "a/", "a/.hidden", "a b", "a\n", "a\0"])
def test_keys_that_could_leave_the_store_are_refused(store: ObjectStore, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        store.put_bytes(key, b"")
