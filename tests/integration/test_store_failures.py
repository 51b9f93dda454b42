"""Calls over a real socket while the object store, a real S3 server, fails: what callers hear, and that all goes on after it."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from tests.rpc_server import Door, open_door, refusal
from tests.s3_server import BUCKET, Fault, FaultyS3, s3_server
from tests.server_fakes import LINES, announced, make_world, prepare, upload, validate

from trellis.server.app.ports import UnitOfWorkFactory
from trellis.v1 import dataset_pb2, dataset_pb2_grpc

_ONCE = {"connect_timeout": 1, "read_timeout": 2, "retries": {"mode": "standard", "total_max_attempts": 1}}


@pytest.fixture
def s3() -> Iterator[FaultyS3]:
    with s3_server() as running:
        yield running


@pytest.fixture
async def door(sqlite_units: UnitOfWorkFactory, s3: FaultyS3, tmp_path: Path) -> AsyncIterator[Door]:
    world = make_world(sqlite_units, tmp_path)
    world = replace(world, context=replace(world.context, store=s3.store(config_kwargs=_ONCE)))
    base = await prepare(world.context, "acme", "globex")
    await validate(world.context, await upload(world.context, "acme"), base)
    async with open_door(world) as opened:
        yield opened


async def uploaded(door: Door, dataset: str) -> str:
    new = announced("acme", LINES, dataset)
    header = dataset_pb2.UploadDatasetVersionRequest.Header(
        parent=new.parent, filename=new.filename, size_bytes=new.size_bytes, sha256=new.sha256, allow_missing=True
    )

    async def requests() -> AsyncIterator[dataset_pb2.UploadDatasetVersionRequest]:
        yield dataset_pb2.UploadDatasetVersionRequest(header=header)
        yield dataset_pb2.UploadDatasetVersionRequest(chunk=LINES)

    stub = dataset_pb2_grpc.DatasetServiceStub(door.channel)
    answer = await stub.UploadDatasetVersion(requests(), metadata=door.key("member"))
    return str(answer.name)


async def test_callers_hear_that_the_store_is_away_and_no_more(door: Door, s3: FaultyS3) -> None:
    for fault in (
        Fault("PUT", times=99, status=503, code="SlowDown"),
        Fault("PUT", times=99, status=403, code="InvalidAccessKeyId"),
        Fault("PUT", times=99, status=404, code="NoSuchBucket"),
    ):
        s3.faults = [fault]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await uploaded(door, "late")
        said = refusal(caught.value)
        assert (said.code, said.reason) == ("UNAVAILABLE", "OBJECT_STORE_UNAVAILABLE")
        assert "RetryInfo" in said.details
        assert not any(word in said.message for word in ("AWS", BUCKET, "127.0.0.1", fault.code))
    s3.faults.clear()
    assert "/datasets/late/versions/" in await uploaded(door, "late")
