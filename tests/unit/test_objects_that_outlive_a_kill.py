"""The S3 server that the chaos suite kills has each object that it acknowledged when it is started again."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.swift_process import BUCKET, SwiftProcess

from trellis.objects import ObjectStore, ObjectStoreUnavailableError

_PART = 5 << 20
_ONCE = {"connect_timeout": 1, "read_timeout": 20, "retries": {"mode": "standard", "total_max_attempts": 1}}


@pytest.fixture
def swift(tmp_path: Path) -> Iterator[SwiftProcess]:
    with SwiftProcess(tmp_path) as running:
        yield running


def test_what_was_acknowledged_before_a_kill_is_there_after_it(swift: SwiftProcess) -> None:
    store = swift.store(config_kwargs=_ONCE)
    acknowledged: list[str] = []

    def write() -> None:
        for number in range(10_000):
            try:
                store.put_bytes(f"a/{number}", f"{number}".encode())
            except ObjectStoreUnavailableError:
                return
            acknowledged.append(f"a/{number}")

    writing = threading.Thread(target=write)
    writing.start()
    while len(acknowledged) < 20:
        assert writing.is_alive()
        writing.join(0.02)
    swift.kill()
    writing.join(60)
    swift.start()
    after = swift.store()
    listed = [info.key for info in after.list("a")]
    assert set(acknowledged) <= set(listed)
    assert len(listed) <= len(acknowledged) + 1  # what was under way may be there
    assert [after.read_bytes(key) for key in acknowledged] == [key[2:].encode() for key in acknowledged]


def test_an_upload_in_parts_goes_on_after_a_kill(swift: SwiftProcess) -> None:
    store: ObjectStore = swift.store(default_block_size=_PART)
    data = bytes(range(256)) * (3 * _PART // 256)
    with store.writing("a/large") as stream:
        stream.write(data[: _PART + 1])
        uploads = store._fs.call_s3("list_multipart_uploads", Bucket=BUCKET)["Uploads"]
        assert [upload["Key"] for upload in uploads] == ["prefix/a/large"]
        swift.kill()
        swift.start()
        stream.write(data[_PART + 1 :])
    swift.kill()
    swift.start()
    assert store.read_bytes("a/large") == data
    assert store._fs.call_s3("list_multipart_uploads", Bucket=BUCKET).get("Uploads", []) == []
    store.delete_prefix("a")
    assert store.list("a") == []
