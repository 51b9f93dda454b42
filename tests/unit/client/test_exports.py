"""Exports through the SDK: asked for, waited for, and downloaded whole, whatever is cut."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from tests.client_rig import Rig, all_of, got
from tests.fake_server.exports import FILES

import trellis
from trellis.client.types import ExportFormat, ExportState

ADAPTER = "0" * 24
WEIGHTS = FILES["model.safetensors"]


async def made(rig: Rig, **changes: Any) -> trellis.Export:
    """An export that is there."""
    export = await got(rig.client.exports.create("support", **changes))
    found: trellis.Export = await got(rig.client.exports.wait(export.name))
    return found


def files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


async def test_an_export_is_asked_for_and_waited_for(rig: Rig) -> None:
    exports = rig.client.exports
    export = await got(exports.create("support", display_name="Mine", export_id="mine"))
    assert (export.name, export.source) == ("tenants/acme/exports/mine", "tenants/acme/aliases/support")
    assert (export.state, export.format) == (ExportState.PENDING, ExportFormat.SAFETENSORS)
    assert (await got(exports.create(ADAPTER))).source == f"tenants/acme/adapters/{ADAPTER}"
    checkpoint = "tenants/acme/tuningJobs/a/checkpoints/5"
    assert (await got(exports.create(checkpoint))).source == checkpoint
    done = await got(exports.wait("mine"))
    assert done.state is ExportState.SUCCEEDED
    assert {file.path: file.size_bytes for file in done.files} == {path: len(data) for path, data in FILES.items()}
    assert done == await got(exports.get("mine"))
    assert len(await all_of(exports.list())) == 3
    await got(exports.delete("mine"))
    with pytest.raises(trellis.NotFound):
        await got(exports.get("mine"))


async def test_waiting_ends_with_why_it_failed(rig: Rig) -> None:
    rig.server.exports.fails = "The adapter is too small."
    export = await got(rig.client.exports.create("support"))
    with pytest.raises(trellis.ExportFailed, match="too small") as caught:
        await got(rig.client.exports.wait(export.name))
    assert caught.value.export.state is ExportState.FAILED
    rig.server.exports.polls_until_made = 1000
    slow = await got(rig.client.exports.create("support"))
    with pytest.raises(trellis.DeadlineExceeded):
        await got(rig.client.exports.wait(slow.name, timeout=5))


async def test_a_download_is_the_files_and_tells_how_far_it_is(rig: Rig, tmp_path: Path) -> None:
    export = await made(rig)
    seen: list[tuple[int, int]] = []
    paths = await got(
        rig.client.exports.download(
            export.name, tmp_path / "new", progress=lambda done, all_: seen.append((done, all_))
        )
    )
    assert {path.relative_to(tmp_path / "new").as_posix(): path.read_bytes() for path in paths} == FILES
    assert files_in(tmp_path / "new") == sorted(paths)
    total = sum(map(len, FILES.values()))
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


async def test_a_cut_download_goes_on_where_it_stopped(rig: Rig, tmp_path: Path) -> None:
    rig.server.exports.cut_reads = 3
    export = await made(rig)
    await got(rig.client.exports.download(export.name, tmp_path))
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS
    offsets = [offset for path, offset in rig.server.exports.offsets if path == "model.safetensors"]
    assert offsets == [0, 1000, 2000]


async def test_what_an_earlier_download_left_is_not_sent_again(rig: Rig, tmp_path: Path) -> None:
    export = await made(rig)
    (tmp_path / "config.json").write_bytes(FILES["config.json"])
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    (tmp_path / f".model.safetensors.{digest[:16]}.part").write_bytes(WEIGHTS[:4321])
    (tmp_path / ".model.safetensors.0123456789abcdef.part").write_bytes(b"of another model")
    await got(rig.client.exports.download(export.name, tmp_path))
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS
    assert rig.server.exports.offsets == [("model.safetensors", 4321), ("templates/tool.jinja", 0)]
    rig.server.exports.offsets.clear()
    await got(rig.client.exports.download(export.name, tmp_path))
    assert rig.server.exports.offsets == []


async def test_a_file_of_the_same_size_but_other_bytes_is_sent_again(rig: Rig, tmp_path: Path) -> None:
    export = await made(rig)
    (tmp_path / "model.safetensors").write_bytes(bytes(len(WEIGHTS)))
    await got(rig.client.exports.download(export.name, tmp_path))
    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS


async def test_other_bytes_than_listed_are_never_put_in_place(rig: Rig, tmp_path: Path) -> None:
    export = await made(rig)
    rig.server.exports.spoiled = True
    with pytest.raises(trellis.DataLoss):
        await got(rig.client.exports.download(export.name, tmp_path))
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("cut", [WEIGHTS[:-1], WEIGHTS + b"more"])
async def test_a_file_of_another_length_is_refused(rig: Rig, tmp_path: Path, cut: bytes) -> None:
    export = await made(rig)
    rig.server.exports.files["model.safetensors"] = cut
    with pytest.raises(trellis.DataLoss):
        await got(rig.client.exports.download(export.name, tmp_path))
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    "path", ["../evil", "/etc/evil", "a/../../evil", ".bashrc", "a//b", "", "a\\..\\b", "a/.git/x"]
)
async def test_a_path_that_leaves_the_folder_is_refused(rig: Rig, tmp_path: Path, path: str) -> None:
    rig.server.exports.files = {path: b"evil"}
    export = await made(rig)
    with pytest.raises(trellis.DataLoss, match="which no export has"):
        await got(rig.client.exports.download(export.name, tmp_path / "in"))
    assert files_in(tmp_path) == []


async def test_what_is_not_made_yet_is_not_downloaded(rig: Rig, tmp_path: Path) -> None:
    rig.server.exports.polls_until_made = 1000
    export = await got(rig.client.exports.create("support"))
    with pytest.raises(trellis.FailedPrecondition, match="RUNNING"):
        await got(rig.client.exports.download(export.name, tmp_path))
