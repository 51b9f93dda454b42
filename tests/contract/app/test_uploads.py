"""Uploads, versions and reports."""

import asyncio
import contextlib
import gzip
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tests.database_lost import DatabaseLost
from tests.server_fakes import LINES, World, announced, chunked, collected, keys, submit, upload, validate

from trellis.errors import FailedPrecondition, NotFound, Reason, TrellisError, Unavailable
from trellis.server.app import datasets, reports, uploads
from trellis.server.app.uploads import NewVersion
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.dataset import DatasetVersion, ReportState, Upload, UploadPart, VersionState


async def reason_of(world: World, new: NewVersion, data: bytes = LINES) -> str:
    with pytest.raises(TrellisError) as caught:
        await uploads.upload_dataset_version(world.context, new, chunked(data, 100))
    return caught.value.reason


async def test_a_file_becomes_a_version_with_a_report_to_come(world: World, base: BaseModel) -> None:
    version = await upload(world.context, "acme")
    assert version.state is VersionState.VALIDATING
    assert version.file_format == "jsonl"
    assert keys(world.store) == [f"tenants/acme/datasets/questions/{version.sha256}/data"]
    found = await reports.get_dataset_report(world.context, f"{version.name}/report", "")
    assert (found.report.state, found.finding) == (ReportState.PENDING, None)
    made, pieces = await datasets.download_dataset_version(world.context, version.name, 10)
    assert made == version
    assert b"".join(await collected(pieces)) == LINES[10:]

    await validate(world.context, version, base)
    found = await reports.get_dataset_report(
        world.context, "tenants/acme/datasets/questions/versions/latest/report", base.name
    )
    assert found.finding is not None
    assert (found.report.valid, found.finding.lines) == (True, 20)


async def test_the_same_file_again_needs_no_bytes(world: World, base: BaseModel) -> None:
    first = await upload(world.context, "acme")
    again = await uploads.upload_dataset_version(world.context, announced("acme", LINES), chunked(b""))
    assert again == first


async def test_a_cut_upload_goes_on_where_it_stopped(world: World, base: BaseModel) -> None:
    new = announced("acme", LINES)
    with pytest.raises(TrellisError) as caught:
        await uploads.upload_dataset_version(world.context, new, chunked(LINES[:1000], 100))
    assert caught.value.reason == Reason.UPLOAD_INCOMPLETE
    assert caught.value.metadata["committed_bytes"] == "1000"
    assert await reason_of(world, new) == Reason.UPLOAD_OFFSET_MISMATCH
    held = await uploads.get_upload(world.context, new.parent, new.sha256)
    assert (held.committed_bytes, held.version) == (1000, None)
    resumed = replace(new, offset=1000)
    version = await uploads.upload_dataset_version(world.context, resumed, chunked(LINES[1000:], 100))
    assert world.store.read_bytes(version.key) == LINES
    assert (await uploads.get_upload(world.context, new.parent, new.sha256)).version == version


async def test_a_stream_that_breaks_keeps_what_came(world: World, base: BaseModel) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield LINES[:300]
        raise asyncio.CancelledError

    new = announced("acme", LINES)
    with pytest.raises(asyncio.CancelledError):
        await uploads.upload_dataset_version(world.context, new, breaking())
    held = await uploads.get_upload(world.context, new.parent, new.sha256)
    assert held.committed_bytes == 300


async def test_a_wrong_checksum_leaves_nothing(world: World, base: BaseModel) -> None:
    wrong = replace(announced("acme", LINES), sha256=hashlib.sha256(b"other").hexdigest())
    assert await reason_of(world, wrong) == Reason.CHECKSUM_MISMATCH
    assert keys(world.store) == []
    with pytest.raises(NotFound):
        await uploads.get_upload(world.context, wrong.parent, wrong.sha256)


async def test_wrong_announcements_are_refused(world: World, base: BaseModel) -> None:
    new = announced("acme", LINES)
    assert await reason_of(world, replace(new, size_bytes=0), b"") == Reason.INVALID_FIELD
    assert await reason_of(world, replace(new, size_bytes=100)) == Reason.FILE_TOO_LARGE
    assert await reason_of(world, replace(new, size_bytes=1 << 21)) == Reason.FILE_TOO_LARGE
    assert await reason_of(world, replace(new, filename="../q.jsonl")) == Reason.INVALID_FIELD
    assert await reason_of(world, replace(new, sha256="../..")) == Reason.INVALID_FIELD
    assert await reason_of(world, replace(new, parent="tenants/acme/datasets/../x")) == Reason.INVALID_NAME
    assert await reason_of(world, replace(new, base_model="baseModels/none")) == Reason.BASE_MODEL_UNAVAILABLE
    assert await reason_of(world, replace(new, allow_missing=False)) == Reason.RESOURCE_NOT_FOUND
    zipped = b"PK\x03\x04" + b"x" * 100
    assert await reason_of(world, announced("acme", zipped), zipped) == Reason.INVALID_FIELD
    assert keys(world.store) == []


async def test_compressed_files_are_told_by_their_bytes(world: World, base: BaseModel) -> None:
    assert (await upload(world.context, "acme", gzip.compress(LINES))).file_format == "jsonl.gz"


async def test_two_streams_of_one_file_make_one_version(world: World, base: BaseModel) -> None:
    new = announced("acme", LINES)

    async def persist() -> DatasetVersion:
        offset = 0
        while True:
            try:
                return await uploads.upload_dataset_version(
                    world.context, replace(new, offset=offset), chunked(LINES[offset:], 200)
                )
            except FailedPrecondition as error:
                offset = int(error.metadata["committed_bytes"])

    made = await asyncio.gather(persist(), persist(), persist())
    assert len({version.name for version in made}) == 1
    assert world.store.read_bytes(made[0].key) == LINES
    assert keys(world.store) == [made[0].key]


async def test_a_stream_whose_parts_another_one_cleared_away_gives_the_same_version(
    world: World, base: BaseModel
) -> None:
    new = announced("acme", LINES)
    gone = UploadPart(0, len(LINES), "tenants/acme/uploads/questions/gone")
    late = Upload("acme", "questions", new.sha256, len(LINES), world.context.now(), (gone,))
    made = await upload(world.context, "acme")
    assert await uploads._finish(world.context, new, late, base.name) == made
    other = replace(late, sha256="0" * 64)
    with pytest.raises(TrellisError) as caught:
        await uploads._finish(world.context, new, other, base.name)
    assert (caught.value.reason, caught.value.metadata["committed_bytes"]) == (Reason.UPLOAD_INCOMPLETE, "0")


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("took_effect", [False, True])
async def test_an_upload_goes_on_after_the_database_was_lost_at_any_commit(
    world: World, base: BaseModel, number: int, took_effect: bool
) -> None:
    new, lost = announced("acme", LINES), DatabaseLost(world.context.units, number, took_effect=took_effect)
    context = replace(world.context, units=lost)
    with pytest.raises(Unavailable):
        await uploads.upload_dataset_version(context, new, chunked(LINES))
    held = 0
    with contextlib.suppress(NotFound):
        held = (await uploads.get_upload(world.context, new.parent, new.sha256)).committed_bytes
    version = await uploads.upload_dataset_version(world.context, replace(new, offset=held), chunked(LINES[held:]))
    assert world.store.read_bytes(version.key) == LINES
    assert version.key in keys(world.store)


async def test_an_upload_whose_parts_are_gone_begins_anew(world: World, base: BaseModel) -> None:
    new = announced("acme", LINES)
    context = replace(world.context, units=DatabaseLost(world.context.units, 3))
    with pytest.raises(Unavailable):
        await uploads.upload_dataset_version(context, new, chunked(LINES))
    world.store.delete_prefix("tenants/acme/uploads")
    assert await reason_of(world, replace(new, offset=len(LINES)), b"") == Reason.UPLOAD_INCOMPLETE
    with pytest.raises(NotFound):
        await uploads.get_upload(world.context, new.parent, new.sha256)
    assert world.store.read_bytes((await upload(world.context, "acme")).key) == LINES


async def test_a_dataset_that_is_read_stays(world: World, base: BaseModel) -> None:
    await upload(world.context, "acme")
    job = await submit(world.context, "acme")
    name = "tenants/acme/datasets/questions"
    with pytest.raises(FailedPrecondition, match=job.name):
        await datasets.delete_dataset(world.context, name, "")
    await upload(world.context, "globex")
    await datasets.delete_dataset(world.context, "tenants/globex/datasets/questions", "")
    assert not [key for key in keys(world.store) if "globex" in key]
