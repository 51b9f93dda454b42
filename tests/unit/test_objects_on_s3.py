"""An S3 that refuses, fails, is slow and breaks off: what is asked again, what is said, and that no object is ever half."""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from tests.faulty_proxy import FaultyProxy
from tests.s3_server import BUCKET, Fault, FaultyS3, fill, s3_server

from trellis.errors import Reason
from trellis.objects import ObjectNotFoundError, ObjectStore, ObjectStoreUnavailableError, reading as reading_module

_PART = 5 << 20
_QUICK = {"connect_timeout": 1, "read_timeout": 2, "retries": {"mode": "standard", "total_max_attempts": 2}}
_ONCE = {**_QUICK, "retries": {"mode": "standard", "total_max_attempts": 1}}


@pytest.fixture(scope="module")
def running() -> Iterator[FaultyS3]:
    with s3_server() as found:
        yield found


@pytest.fixture(scope="module")
def usual(running: FaultyS3) -> ObjectStore:
    """For what is done before and after a test: to make a client takes a moment."""
    return running.store()


@pytest.fixture
def s3(running: FaultyS3, usual: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    monkeypatch.setattr(reading_module, "_PAUSE_SECONDS", 0.0)
    running.faults.clear()
    usual.delete_prefix("a")
    running.requests.clear()
    yield running
    running.faults.clear()
    assert usual._fs.call_s3("list_multipart_uploads", Bucket=BUCKET).get("Uploads", []) == []


@pytest.fixture(scope="module")
def quick(running: FaultyS3) -> ObjectStore:
    return running.store(config_kwargs=_QUICK, default_block_size=_PART)


@pytest.fixture
def store(s3: FaultyS3, quick: ObjectStore) -> ObjectStore:
    """One that gives up soon, over a server that has nothing."""
    return quick


def large(parts: int = 2) -> bytes:
    """That many parts, and half a one."""
    return b"".join(hashlib.sha256(str(n).encode()).digest() for n in range((parts * _PART + _PART // 2) // 32))


def in_pieces(stream: BinaryIO, data: bytes) -> None:
    stream.writelines(data[start : start + (1 << 20)] for start in range(0, len(data), 1 << 20))


def test_a_small_object_is_one_call_with_a_checksum(s3: FaultyS3, store: ObjectStore) -> None:
    store.put_bytes("a/x", b"small")
    [request] = s3.requests
    assert request.method == "PUT"
    assert "x_amz_checksum_crc32" in request.headers or "x_amz_trailer" in request.headers
    assert store.read_bytes("a/x") == b"small"
    store.put_bytes("a/empty", b"")
    assert (store.size("a/empty"), store.read_bytes("a/empty")) == (0, b"")


def test_a_large_one_appears_when_its_last_part_is_there(s3: FaultyS3, store: ObjectStore) -> None:
    data = large()
    with store.writing("a/x") as stream:
        in_pieces(stream, data)
        assert sum("partNumber" in request.query for request in s3.requests) >= 1
        assert not store.exists("a/x")
    assert store.read_bytes("a/x") == data
    with store.open_read("a/x") as stream:
        stream.seek(_PART - 3)
        assert stream.read(6) == data[_PART - 3 : _PART + 3]
        stream.seek(-4, 2)
        assert stream.read() == data[-4:]


def test_one_that_is_given_up_leaves_no_part(store: ObjectStore) -> None:
    def give_up() -> None:
        with store.writing("a/x") as stream:
            stream.write(large())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        give_up()
    assert not store.exists("a/x")  # that no upload is left either is looked at after each test


@pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (503, "ServiceUnavailable")])
def test_a_busy_store_is_asked_again(s3: FaultyS3, store: ObjectStore, status: int, code: str) -> None:
    for method in ("PUT", "GET", "HEAD", "DELETE"):
        s3.faults.append(Fault(method, status=status, code=code))
    store.put_bytes("a/x", b"data")
    assert store.read_bytes("a/x") == b"data"
    store.delete("a/x")
    assert not store.exists("a/x")
    assert all(fault.times == 0 for fault in s3.faults)


def test_a_store_that_stays_busy_is_given_up_and_says_nothing_of_the_object(s3: FaultyS3) -> None:
    store = s3.store(config_kwargs=_ONCE)
    store.put_bytes("a/x", b"data")
    for method in ("PUT", "GET", "HEAD", "DELETE", "POST"):
        s3.faults.append(Fault(method, times=99, status=503, code="SlowDown"))
    for call in (store.exists, store.size, store.read_bytes, store.list, store.delete, store.delete_prefix):
        with pytest.raises(ObjectStoreUnavailableError, match="Try again") as caught:
            call("a/x")
        assert caught.value.reason == Reason.OBJECT_STORE_UNAVAILABLE
        assert caught.value.retry_after
    with pytest.raises(ObjectStoreUnavailableError):
        store.put_bytes("a/x", b"new")
    s3.faults.clear()
    assert store.read_bytes("a/x") == b"data"


def test_a_part_that_fails_for_good_leaves_nothing(s3: FaultyS3, store: ObjectStore) -> None:
    s3.faults.append(Fault("PUT", "partNumber=2", times=99, status=500, code="InternalError"))
    with pytest.raises(ObjectStoreUnavailableError), store.writing("a/x") as stream:
        in_pieces(stream, large())
    assert not store.exists("a/x")


def test_an_upload_whose_last_answer_was_lost_is_there(s3: FaultyS3, store: ObjectStore) -> None:
    data = large()
    s3.faults.append(Fault("POST", "uploadId", cut_after=-1))
    store.put_bytes("a/x", data)
    assert store.read_bytes("a/x") == data


def test_a_read_that_breaks_off_goes_on(s3: FaultyS3, store: ObjectStore, tmp_path: Path) -> None:
    data = large()
    store.put_bytes("a/x", data)
    s3.faults += [Fault("GET", cut_after=1000), Fault("GET", cut_after=-1), Fault("GET", short=17)]
    store.get_file("a/x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == data
    assert all(fault.times == 0 for fault in s3.faults)


@pytest.mark.parametrize("fault", [Fault("GET", times=99, short=3), Fault("GET", times=99, cut_after=3)])
def test_a_short_read_is_an_error_and_never_a_short_object(s3: FaultyS3, fault: Fault) -> None:
    store = s3.store(config_kwargs=_ONCE)
    store.put_bytes("a/x", b"0123456789")
    s3.faults.append(fault)
    with pytest.raises(ObjectStoreUnavailableError):
        store.read_bytes("a/x")


def test_one_that_is_replaced_while_it_is_read_is_not_mixed(s3: FaultyS3, store: ObjectStore) -> None:
    store.put_bytes("a/x", large())
    with store.open_read("a/x") as stream:
        stream.read(10)
        store.put_bytes("a/x", bytes(reversed(large())))
        stream.seek(2 * _PART)
        with pytest.raises(ObjectStoreUnavailableError):
            stream.read()


def test_wrong_credentials_are_said_to_the_operator_and_not_to_callers(
    s3: FaultyS3, caplog: pytest.LogCaptureFixture
) -> None:
    store = s3.store(key="wrong", config_kwargs=_QUICK)
    for call in (store.exists, store.read_bytes, store.list, store.delete):
        with pytest.raises(ObjectStoreUnavailableError) as caught:
            call("a/x")
        assert "refuses the platform" in str(caught.value)
        assert not any(word in str(caught.value) for word in ("wrong", "AWS", BUCKET, "127.0.0.1"))
    assert "AWS_ACCESS_KEY_ID" in caplog.text
    assert "s3://trellis-tests/prefix" in caplog.text
    assert len(s3.requests) <= 6  # asking again would not help


def test_a_bucket_that_is_missing_is_no_missing_object(s3: FaultyS3, caplog: pytest.LogCaptureFixture) -> None:
    store = s3.store(bucket="nowhere", config_kwargs=_QUICK)
    for call in (store.exists, store.size, store.read_bytes, store.list, store.delete_prefix):
        with pytest.raises(ObjectStoreUnavailableError, match="not set up"):
            call("a/x")
    with pytest.raises(ObjectStoreUnavailableError):
        store.put_bytes("a/x", b"data")
    assert "TRELLIS_STORE_URL" in caplog.text


def test_a_missing_object_is_one(store: ObjectStore) -> None:
    for call in (store.size, store.read_bytes):
        with pytest.raises(ObjectNotFoundError):
            call("a/nothing")
    assert not store.exists("a/nothing")


def test_a_slow_store_and_a_black_hole_hold_nobody_for_ever(s3: FaultyS3) -> None:
    with FaultyProxy(s3.address) as proxy:
        store = s3.store(endpoint=f"http://127.0.0.1:{proxy.port}", config_kwargs={**_QUICK, "read_timeout": 0.5})
        store.put_bytes("a/x", b"data")
        proxy.swallow()
        begun = time.monotonic()
        with pytest.raises(ObjectStoreUnavailableError):
            store.exists("a/x")
        assert time.monotonic() - begun < 15
        proxy.heal()
        assert store.read_bytes("a/x") == b"data"
        proxy.cut()  # the connections that rest
        assert store.read_bytes("a/x") == b"data"
        proxy.refuses = True
        proxy.cut()
        with pytest.raises(ObjectStoreUnavailableError):
            store.exists("a/x")


def test_more_than_a_page_is_listed_and_deleted(s3: FaultyS3) -> None:
    store = s3.store()
    fill([*(f"prefix/a/many/{number:05}" for number in range(1203)), "prefix/a/manyfold"])
    assert len(store.list("a/many")) == 1203
    store.delete_prefix("a/many")
    assert [found.key for found in store.list("a")] == ["a/manyfold"]
