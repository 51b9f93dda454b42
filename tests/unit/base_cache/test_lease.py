"""One fetcher at a time, and what happens to one that stood still."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trellis.base_cache.errors import PassingError
from trellis.base_cache.lease import Lease
from trellis.base_cache.manifest import CachedFile, Manifest
from trellis.base_cache.part import Part


def test_a_lease_is_one_process_s_until_it_gives_it_back(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    lease = Lease.take(path, 60)
    assert lease is not None
    with lease:
        assert Lease.take(path, 60) is None
    again = Lease.take(path, 60)
    assert again is not None
    with again:
        again.check()
    assert list(tmp_path.iterdir()) == []


def test_a_lease_that_nobody_touched_is_taken_over_and_its_holder_notices(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    old = Lease.take(path, 1.0)
    assert old is not None
    beaten = threading.Event()
    old.on_beat = beaten.set
    with old:
        assert beaten.wait(5)
        assert Lease.take(path, 1.0) is None  # it beats
        path.write_text("another one")  # as who took it over
        old._beats.join(5)
        with pytest.raises(PassingError, match="taken this fetch over"):
            old.check()
    assert path.read_text() == "another one"  # it is not its own to remove
    os.utime(path, (1, 1))
    new = Lease.take(path, 60)
    assert new is not None
    with new:
        assert path.read_text() == new.token


def test_of_many_at_once_one_takes_a_stale_lease(tmp_path: Path) -> None:
    path = tmp_path / "lease"
    path.write_text("dead")
    os.utime(path, (1, 1))
    with ThreadPoolExecutor(8) as pool:
        taken = [lease for lease in pool.map(lambda _n: Lease.take(path, 60), range(8)) if lease]
    holder = path.read_text()
    assert holder in {lease.token for lease in taken}  # at the worst two believe it: the rename decides
    for lease in taken:
        lease.__exit__(None, None, None)


def test_of_two_that_finish_the_first_is_kept_whole(tmp_path: Path) -> None:
    entry, parts = tmp_path / "entry", []
    entry.mkdir()
    for text in ("first", "second"):
        part = Part(entry / f".part-key.{text}")
        part.path.mkdir()
        (part.path / "config.json").write_text(text)
        parts.append(part)
    results = [
        part.finish(Manifest("a/b", "r", "d", (CachedFile("config.json", 5, "x"),)), entry / "r") for part in parts
    ]
    assert results == [True, False]
    assert (entry / "r" / "config.json").read_text() == "first"
    assert [path.name for path in entry.iterdir()] == ["r"]


def test_who_takes_a_part_over_takes_it_away(tmp_path: Path) -> None:
    first = Part.take(tmp_path, "key", "one")
    (first.path / "config.json").write_text("{}")
    second = Part.take(tmp_path, "key", "two")
    assert (second.path / "config.json").read_text() == "{}"
    assert not first.path.exists()
    with pytest.raises(FileNotFoundError):
        first.finish(Manifest("a/b", "r", "d", ()), tmp_path / "r")


@pytest.mark.parametrize("left", ["", "{", "[]", '{"source": 1}'])
def test_a_manifest_that_is_none_is_said(tmp_path: Path, left: str) -> None:
    (tmp_path / "trellis-base.manifest").write_text(left)
    with pytest.raises(ValueError, match="can't be read"):
        Manifest.read(tmp_path)
