"""Uploads and downloads of datasets, and what cuts them."""

import asyncio
import hashlib
import io
from pathlib import Path

import pytest
from tests.client_rig import Rig, all_of, got

import trellis

LINE = b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n'
DATA = LINE * 20_000  # some chunks


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "support.jsonl"
    path.write_bytes(DATA)
    return path


async def test_a_file_becomes_a_version(rig: Rig, file: Path) -> None:
    told: list[tuple[int, int]] = []
    version = await got(
        rig.client.datasets.upload(
            file, dataset="support", base_model="tiny", progress=lambda *numbers: told.append(numbers)
        )
    )
    sha256 = hashlib.sha256(DATA).hexdigest()
    assert version.name == f"tenants/acme/datasets/support/versions/{sha256}"
    assert (version.state, version.filename) == (trellis.DatasetVersionState.READY, "support.jsonl")
    assert version.base_model == "baseModels/tiny"
    assert rig.server.datasets.files[version.name] == DATA
    assert told[0] == (0, len(DATA))
    assert told[-1] == (len(DATA), len(DATA))
    assert await got(rig.client.datasets.get_version("support")) == version
    assert await all_of(rig.client.datasets.list_versions("support")) == [version]
    assert (await got(rig.client.datasets.report("support"))).summary == "Fine."


async def test_a_stream_is_uploaded_from_where_it_stands(rig: Rig) -> None:
    stream = io.BytesIO(b"skipped" + LINE)
    stream.seek(7)
    upload = rig.client.datasets.upload(
        stream, dataset="d", filename="a.csv", format=trellis.FileFormat.JSONL, wait=False
    )
    version = await got(upload)
    assert (version.state, version.filename) == (trellis.DatasetVersionState.VALIDATING, "a.csv")
    assert version.format is trellis.FileFormat.JSONL
    assert rig.server.datasets.files[version.name] == LINE


async def test_a_cut_upload_goes_on_where_it_stopped(rig: Rig, file: Path) -> None:
    rig.server.datasets.cut_after = [700_000, 1, 0, 500_000]
    version = await got(rig.client.datasets.upload(file, dataset="support"))
    assert rig.server.datasets.files[version.name] == DATA
    offsets = rig.server.datasets.offsets
    assert offsets[0] == 0
    assert offsets == sorted(offsets)
    assert offsets[-1] >= 1_000_000


async def test_an_upload_outlives_a_restart_of_the_server(rig: Rig, file: Path) -> None:
    rig.server.datasets.cut_after = [600_000]

    def restart() -> None:
        rig.server.stop()
        rig.time.on_sleep = rig.server.start

    rig.time.on_sleep = restart
    version = await got(rig.client.datasets.upload(file, dataset="support"))
    assert rig.server.datasets.files[version.name] == DATA


async def test_the_same_bytes_again_are_not_sent_again(rig: Rig, file: Path) -> None:
    first = await got(rig.client.datasets.upload(file, dataset="support"))
    assert await got(rig.client.datasets.upload(file, dataset="support")) == first
    assert rig.server.datasets.offsets == [0, len(DATA)]


async def test_errors_in_a_file_are_all_found_before_anything_is_sent(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(LINE + b"{\n" + b'{"messages": [{"role": "king", "content": "Hi"}]}\n')
    with pytest.raises(trellis.InvalidDataset) as caught:
        await got(rig.client.datasets.upload(path, dataset="support", check=True))
    check = caught.value.check
    assert {(error.line, error.code) for error in check.errors} >= {(2, "invalid_json"), (3, "unrecognized_role")}
    assert (check.line_count, check.valid_line_count, check.valid) == (3, 1, False)
    assert caught.value.reason == trellis.Reason.DATASET_INVALID
    assert rig.server.faults.calls == []


async def test_an_invalid_version_is_returned_as_such(rig: Rig, file: Path) -> None:
    rig.server.datasets.report.valid = False
    version = await got(rig.client.datasets.upload(file, dataset="support", check=True))
    assert version.state is trellis.DatasetVersionState.INVALID


async def test_an_unknown_dataset_is_not_made_when_that_is_not_wanted(rig: Rig, file: Path) -> None:
    with pytest.raises(trellis.NotFound):
        await got(rig.client.datasets.upload(file, dataset="support", create=False))


async def test_waiting_for_a_report_ends_in_time(rig: Rig, file: Path) -> None:
    rig.server.datasets.polls_until_ready = 10_000
    with pytest.raises(trellis.DeadlineExceeded, match="not made in time"):
        await got(rig.client.datasets.upload(file, dataset="support", timeout=30))


async def test_a_download_is_byte_for_byte(rig: Rig, file: Path, tmp_path: Path) -> None:
    await got(rig.client.datasets.upload(file, dataset="support"))
    rig.server.datasets.cut_downloads = [100, 0, 5]
    await got(rig.client.datasets.download("support", tmp_path / "copy"))
    assert (tmp_path / "copy").read_bytes() == DATA
    (tmp_path / "folder").mkdir()
    await got(rig.client.datasets.download("support", tmp_path / "folder"))
    assert (tmp_path / "folder" / "support.jsonl").read_bytes() == DATA


async def test_a_spoiled_download_leaves_nothing(rig: Rig, file: Path, tmp_path: Path) -> None:
    version = await got(rig.client.datasets.upload(file, dataset="support"))
    rig.server.datasets.files[version.name] = b"other bytes"
    (tmp_path / "folder").mkdir()
    with pytest.raises(trellis.DataLoss):
        await got(rig.client.datasets.download("support", tmp_path / "folder"))
    assert list((tmp_path / "folder").iterdir()) == []


async def test_a_refused_upload_says_why_while_it_is_being_sent(rig: Rig, file: Path) -> None:
    refused = trellis.InvalidArgument("FILE_TOO_LARGE", "The file is too large.")
    rig.server.faults.plan("UploadDatasetVersion", *[refused] * 20)
    for _ in range(20):
        with pytest.raises(trellis.InvalidArgument, match="too large"):
            await got(rig.client.datasets.upload(file, dataset="support"))
    assert rig.time.slept == []


async def test_cancelling_the_task_ends_the_upload(rig: Rig, file: Path) -> None:
    if isinstance(rig.client, trellis.Client):
        return
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(
        rig.client.datasets.upload(file, dataset="d", progress=lambda *_: loop.call_soon_threadsafe(begun.set))
    )
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
