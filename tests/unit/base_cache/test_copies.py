"""Bases from buckets and folders into the cache; S3 is a real server on this machine, spoken to over HTTP."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from tests.hub_fake import write_base
from tests.s3_server import BUCKET, KEY, SECRET, Fault, FaultyS3, s3_server

from trellis.base_cache.cache import cached, entry_of
from trellis.base_cache.errors import BaseCacheError, PassingError
from trellis.base_cache.fetch import FetchOptions, fetch, repair, verify
from trellis.base_cache.progress import Event
from trellis.bases import BaseModelError, BaseModelNotFetchedError, read_base

QUICK = FetchOptions(sleep=lambda _seconds: None)
SOURCE = f"s3://{BUCKET}/llama"


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyS3]:
    with s3_server() as server:
        yield server


@pytest.fixture
def bucket(server: FaultyS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> fsspec.AbstractFileSystem:
    server.faults.clear()
    for name, value in {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    files, _ = fsspec.url_to_fs("s3://", use_listings_cache=False, skip_instance_cache=True)
    if files.exists(f"{BUCKET}/llama"):
        files.rm(f"{BUCKET}/llama", recursive=True)
    for path in write_base(tmp_path / "model").iterdir():
        files.put_file(str(path), f"{BUCKET}/llama/{path.name}")
    return files


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRELLIS_BASE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_bucket_is_fetched_once_and_read_from_the_cache_alone(
    bucket: fsspec.AbstractFileSystem, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BaseModelNotFetchedError, match=r"Fetch it first: python -m trellis.base_cache s3://.*/llama"):
        read_base(SOURCE)
    got = fetch(SOURCE + "/", "", cache, options=QUICK)
    assert got.revision == got.digest
    assert not (got.path / "pytorch_model.bin").exists()
    assert fetch(SOURCE, "", cache, options=QUICK).was_present
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    facts = read_base(SOURCE, got.revision)
    assert (facts.path, facts.revision) == (got.path, got.revision)
    assert read_base(SOURCE) == facts
    monkeypatch.delenv("TRELLIS_BASE_CACHE")
    with pytest.raises(BaseModelError, match="TRELLIS_BASE_CACHE must name its folder"):
        read_base(SOURCE)


def test_other_objects_are_another_revision_and_damage_is_mended(
    bucket: fsspec.AbstractFileSystem, cache: Path, tmp_path: Path
) -> None:
    first = fetch(SOURCE, "", cache, options=QUICK)
    for path in write_base(tmp_path / "other", seed=1).iterdir():
        bucket.put_file(str(path), f"{BUCKET}/llama/{path.name}")
    second = fetch(SOURCE, "", cache, options=QUICK)
    assert {base.revision for base in cached(cache)} == {first.revision, second.revision}
    assert read_base(SOURCE).revision == second.revision
    assert fetch(SOURCE, first.revision, cache, options=QUICK).was_present
    with pytest.raises(BaseCacheError, match=f"holds another model .*{second.revision}, not sha256:0000"):
        fetch(SOURCE, "sha256:" + "0" * 64, cache, options=QUICK)

    shard = second.path / "model-2-of-2.safetensors"
    data = bytearray(shard.read_bytes())
    data[-70_000] ^= 1
    shard.write_bytes(data)
    assert verify(SOURCE, second.revision, cache) == ["model-2-of-2.safetensors has other bytes than were fetched."]
    repair(SOURCE, second.revision, cache)
    assert fetch(SOURCE, "", cache, options=QUICK).revision == second.revision
    assert verify(SOURCE, "", cache) == []
    assert list(entry_of(SOURCE, cache).glob(".*")) == []


def test_a_bucket_that_fails_now_and_then_is_overcome(
    bucket: fsspec.AbstractFileSystem, server: FaultyS3, cache: Path, tmp_path: Path
) -> None:
    events: list[Event] = []
    part = "model-2-of-2"
    server.faults += [
        Fault("GET", part, cut_after=100_000),
        Fault("GET", part, short=100_000),
        Fault("GET", part, status=503, code="SlowDown"),
        Fault("GET", part, cut_after=-1),
    ]
    got = fetch(SOURCE, "", cache, events.append, QUICK)
    assert [fault.times for fault in server.faults] == [0, 0, 0, 0]
    server.faults.clear()
    assert got.revision == read_base(str(tmp_path / "model")).revision
    for name in ("model-1-of-2.safetensors", "model-2-of-2.safetensors"):
        assert (got.path / name).read_bytes() == (tmp_path / "model" / name).read_bytes()
    assert events[-1].done == events[-1].total == got.bytes


def test_credentials_that_are_refused_are_said(
    bucket: fsspec.AbstractFileSystem, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
    with pytest.raises(BaseCacheError, match=r"may not be read with the credentials in AWS_…") as caught:
        fetch(SOURCE, "", cache, options=QUICK)
    assert not isinstance(caught.value, PassingError)


def test_buckets_that_are_empty_or_away_are_said(
    bucket: fsspec.AbstractFileSystem, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BaseCacheError, match=r"There is nothing at s3://.*/none"):
        fetch(f"s3://{BUCKET}/none", "", cache, options=QUICK)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(PassingError, match=r"s3://.*/away can't be reached"):
        fetch(f"s3://{BUCKET}/away", "", cache, options=QUICK)


def test_a_folder_is_copied_and_its_revision_is_what_was_registered(cache: Path, tmp_path: Path) -> None:
    folder = write_base(tmp_path / "model")
    registered = read_base(str(folder)).revision
    got = fetch(str(folder), "", cache, options=QUICK)
    assert got.revision == registered
    folder.rename(tmp_path / "gone")  # as on another node
    assert read_base(str(folder), registered).path == got.path
    with pytest.raises(BaseModelError, match="no folder"):
        read_base(str(folder), "sha256:" + "0" * 64)


class StopError(Exception):
    """Ends a fetch where the test wants."""


def test_files_that_are_whole_are_not_copied_again(cache: Path, tmp_path: Path) -> None:
    folder = write_base(tmp_path / "model")

    def stop(event: Event) -> None:
        if event.event == "checking":
            raise StopError

    with pytest.raises(StopError):
        fetch(str(folder), "", cache, stop, QUICK)
    (part,) = cache.glob("*/.part-*")
    before = {path.name: path.stat().st_ino for path in part.glob("*.safetensors")}
    damaged = part / "model-2-of-2.safetensors"
    data = bytearray(damaged.read_bytes())
    data[100_000] ^= 1
    damaged.write_bytes(data)
    got = fetch(str(folder), "", cache, options=QUICK)
    assert verify(str(folder), "", cache) == []
    assert (got.path / damaged.name).read_bytes() == (folder / damaged.name).read_bytes()
    assert (got.path / "model-1-of-2.safetensors").stat().st_ino == before["model-1-of-2.safetensors"]
