"""What a writer that was killed has left of its object is discarded when it is old, and nothing else is."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests import moto_uploads
from tests.s3_server import BUCKET, Fault, FaultyS3, s3_server

from trellis.objects import ObjectStore, ObjectStoreUnavailableError

DAY = timedelta(days=1)
_PART = 5 << 20
WRITER = """
import sys
from tests.s3_server import FaultyS3
from trellis.objects import ObjectStore
where, key = sys.argv[1:]
options = {"default_block_size": 5 << 20}
store = FaultyS3(where).store(**options) if where.startswith("http") else ObjectStore.open(where)
with store.writing(key) as stream:
    stream.write(bytes(12 << 20))
    print("written", flush=True)
    sys.stdin.read()
"""
"""Writes until it is killed."""


def kill_while_it_writes(where: str, key: str) -> None:
    command = [sys.executable, "-c", WRITER, where, key]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    ) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        writer.kill()


@pytest.fixture
def s3() -> Iterator[FaultyS3]:
    with s3_server() as found:
        clear(found)
        yield found
        clear(found)


def clear(found: FaultyS3) -> None:
    """Moto's servers of one process share what they keep: other tests' objects may be there, too."""
    found.faults.clear()
    store = found.store()
    store._fs.clear_multipart_uploads(BUCKET)
    store.delete_prefix("tenants")


def begun(store: ObjectStore) -> list[str]:
    return [found["Key"] for found in store._fs.call_s3("list_multipart_uploads", Bucket=BUCKET).get("Uploads", [])]


def test_a_killed_writer_s_parts_are_aborted_when_they_are_old(s3: FaultyS3) -> None:
    store, now = s3.store(), datetime.now(UTC)
    store.put_bytes("tenants/acme/whole", b"x")
    kill_while_it_writes(s3.endpoint, "tenants/acme/models/m/weights")
    assert store.list("tenants") == store.list("tenants/acme")
    assert begun(store) == ["prefix/tenants/acme/models/m/weights"]
    assert store.discard_unfinished("tenants", now - DAY) == 0
    assert begun(store), "it may still be written to"
    assert store.discard_unfinished("tenants", now + DAY) == 1
    assert begun(store) == []
    assert store.discard_unfinished("tenants", now + DAY) == 0
    assert [info.key for info in store.list("tenants")] == ["tenants/acme/whole"]


def test_all_of_ours_are_found_and_nobody_else_s(s3: FaultyS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(moto_uploads.PAGE, "uploads", 2)
    store = s3.store()
    others = ["prefix/tenants-of-another/x", "prefix/engines/x", "other/tenants/acme/x"]
    for key in (*(f"prefix/tenants/acme/{number}" for number in range(5)), *others):
        store._fs.call_s3("create_multipart_upload", Bucket=BUCKET, Key=key)
    assert store.discard_unfinished("tenants", datetime.now(UTC) + DAY) == 5
    monkeypatch.setitem(moto_uploads.PAGE, "uploads", 1000)
    assert begun(store) == sorted(others)


def test_one_that_is_ended_meanwhile_is_no_error(s3: FaultyS3) -> None:
    store = s3.store()
    upload = store._fs.call_s3("create_multipart_upload", Bucket=BUCKET, Key="prefix/tenants/acme/x")
    abort = store._fs.call_s3

    def first_somebody_else(method: str, **arguments: str) -> object:
        if method == "abort_multipart_upload":
            abort(method, Bucket=BUCKET, Key=upload["Key"], UploadId=upload["UploadId"])
        return abort(method, **arguments)

    store._fs.call_s3 = first_somebody_else
    assert store.discard_unfinished("tenants", datetime.now(UTC) + DAY) == 0
    assert begun(store) == []


def test_a_store_that_does_not_let_us_list_them_is_an_error_that_says_what_we_need(
    s3: FaultyS3, caplog: pytest.LogCaptureFixture
) -> None:
    store = s3.store()
    s3.faults.append(Fault("GET", "uploads", times=9, status=403, code="AccessDenied"))
    with pytest.raises(ObjectStoreUnavailableError):
        store.discard_unfinished("tenants", datetime.now(UTC))
    assert "ListBucketMultipartUploads" in caplog.text


def test_a_killed_writer_s_file_is_deleted_when_it_is_old(tmp_path: Path) -> None:
    store, now = ObjectStore.open(str(tmp_path)), datetime.now(UTC)
    store.put_bytes("tenants/acme/m/whole", b"x")
    kill_while_it_writes(str(tmp_path), "tenants/acme/m/weights")
    kill_while_it_writes(str(tmp_path), "engines/e")
    (tmp_path / "tenants" / ".hidden").write_text("not ours")
    [left] = tmp_path.glob("tenants/acme/m/.weights.*")
    assert store.discard_unfinished("tenants", now - DAY) == 0
    assert left.exists()
    assert store.discard_unfinished("tenants", now + DAY) == 1
    assert not left.exists()
    assert [info.key for info in store.list("tenants")] == ["tenants/acme/m/whole"]
    assert (tmp_path / "tenants" / ".hidden").exists()
    assert len([*tmp_path.glob("engines/.e.*")]) == 1
    assert store.discard_unfinished("nothing", now) == 0
