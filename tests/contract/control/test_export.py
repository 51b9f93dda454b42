"""Exports are made one at a time, whatever dies when; the manifest in the store says that one is made."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.control.mortal import Fuse, Killed
from tests.contract.control.platform import SETTINGS, Platform
from tests.contract.control.shared import SharedTrainer, admitted
from tests.contract.store import samples

from trellis.artifacts import FileFacts, Manifest
from trellis.errors import Reason
from trellis.exports import ExportFailure, ExportManifest, ExportTask, write_manifest
from trellis.server.app import keys
from trellis.server.app.exports import delete_export
from trellis.server.app.hosts import RunStatus
from trellis.server.app.ledger_reading import LedgerRange
from trellis.server.control.export import MakeExports, ReapExports, export_needs, held_by_exports
from trellis.server.control.sweep import SweepObjects
from trellis.server.domain.export import Export, ExportFormat, ExportState
from trellis.server.domain.tuning_job import Attempt, Checkpoint, JobState
from trellis.server.scheduler.capacity import Resources
from trellis.server.store import tables

GRACE = SETTINGS.graces.cancel.total_seconds()


def loops(platform: Platform, fuse: Fuse | None = None) -> tuple[MakeExports, ReapExports]:
    control = platform.control(fuse=fuse)
    return MakeExports(control, platform.store), ReapExports(control)


def export(number: int = 1, **changes: Any) -> Export:
    uid = f"export-{number}"
    plain = Export(
        "acme", f"mine-{number}", uid, "", samples.adapter().name, "the/adapter", "baseModels/tiny",
        ExportFormat.SAFETENSORS, ExportState.PENDING, keys.export_prefix("acme", uid), "", samples.at(number),
    )  # fmt: skip
    return replace(plain, **changes)


def run_of(number: int = 1, attempt: int = 1) -> str:
    return f"trellis-export-here-export-{number}-{attempt}"


@pytest.fixture
async def asked(platform: Platform) -> Platform:
    """A platform of which one export is asked."""
    manifest = Manifest("baseModels/tiny", "r1", samples.SHA, {}, spec={"epochs": 3}, metrics={"loss": 0.5})
    async with platform.units() as unit:
        await unit.adapters.add(samples.adapter(manifest_json=manifest.to_json().decode(), tuning_job="the/job"))
        await unit.exports.add(export())
        await unit.commit()
    return platform


async def read(platform: Platform, number: int = 1) -> Export:
    async with platform.units(write=False) as unit:
        found = await unit.exports.get_by_uid(f"export-{number}")
    assert found is not None
    return found


async def rounds(make: MakeExports, count: int = 3) -> None:
    for _ in range(count):
        await make.once()


def lay(platform: Platform, number: int = 1, **changes: Any) -> ExportManifest:
    """What the export's process leaves."""
    key = export(number).key
    task = ExportTask.from_json(platform.store.read_bytes(f"{key}/task.json"))
    platform.store.put_bytes(f"{key}/model.safetensors", b"weights")
    facts = FileFacts("28d3c7a0a5b8c2be7a1ab6d9d1c6a2f6cd0d4dc8d3cd3f1aa1f0a4d1be5ed2ab", 7)
    manifest = ExportManifest(
        task.format, task.base_model, task.base_revision, task.tokenizer_digest, {"model.safetensors": facts},
        adapter_digest=task.adapter_digest, source=task.source,
    )  # fmt: skip
    manifest = replace(manifest, **changes)
    write_manifest(platform.store, key, manifest)
    return manifest


async def test_an_export_is_submitted_watched_and_found_made(asked: Platform) -> None:
    make, reap = loops(asked)
    await rounds(make)
    request = asked.cluster.runs[run_of()].request
    assert request.entrypoint == ("python", "-m", "trellis_jobs.export.main")
    assert request.environment["TRELLIS_EXPORT_KEY"] == export().key
    assert (request.cpus, request.gpus, request.environment["TRELLIS_EXPORT_RUN"]) == (1.0, 0.0, "1")
    assert (await read(asked)).state is ExportState.PENDING
    asked.cluster.runs[run_of()].status = RunStatus.RUNNING
    asked.clock.pass_seconds(5)
    await make.once()
    running = await read(asked)
    assert (running.state, running.start_time) == (ExportState.RUNNING, asked.clock.now())
    manifest = lay(asked)
    asked.clock.pass_seconds(7.5)
    await make.once()
    done = await read(asked)
    assert done.state is ExportState.SUCCEEDED
    async with asked.units(write=False) as unit:
        [metered] = (await unit.ledger.entries(LedgerRange("acme"), 10, None)).items
    assert (metered.resource, metered.quantity) == (done.name, 7500), "a CPU, as there are no GPUs"
    assert [file.path for file in done.files] == ["manifest.json", "model.safetensors"]
    assert done.files[0].sha256 == manifest.digest
    await reap.once()
    assert asked.cluster.alive() == [run_of()]
    asked.clock.pass_seconds(2 * GRACE + 1)
    await reap.once()
    await reap.once()
    assert asked.cluster.runs == {}
    assert (await read(asked)).cleaned_up
    assert asked.cluster.started == [run_of()]


async def test_the_process_is_told_where_all_comes_from(asked: Platform) -> None:
    await rounds(loops(asked)[0])
    task = ExportTask.from_json(asked.store.read_bytes(f"{export().key}/task.json"))
    assert (task.base_model, task.base_source, task.base_revision) == ("baseModels/tiny", "/models/tiny", "r1")
    assert (task.adapter_key, task.adapter_digest) == ("the/adapter", samples.digest(1))
    assert (task.tuning_job, task.spec, task.metrics) == ("the/job", {"epochs": 3}, {"loss": 0.5})


async def test_a_checkpoints_task_has_the_jobs_spec(platform: Platform) -> None:
    await platform.add_jobs(samples.alone())
    async with platform.units() as unit:
        await unit.jobs.add_checkpoint("uid-acme-1", Checkpoint(5, 1, "the/key", 1, platform.clock.now()))
        await unit.exports.add(export(source="tenants/acme/tuningJobs/job-1/checkpoints/5", adapter_key="the/key"))
        await unit.commit()
    await rounds(loops(platform)[0])
    task = ExportTask.from_json(platform.store.read_bytes(f"{export().key}/task.json"))
    assert (task.tuning_job, task.adapter_key) == ("tenants/acme/tuningJobs/job-1", "the/key")
    assert task.spec is not None
    assert task.spec["base_revision"] == "r1"


async def test_one_is_made_at_a_time_the_oldest_first(asked: Platform) -> None:
    async with asked.units() as unit:
        await unit.exports.add(export(3))
        await unit.exports.add(export(2))
        await unit.commit()
    make, _ = loops(asked)
    other, _ = loops(asked)
    for _ in range(3):
        await rounds(make)
        await rounds(other)
        assert len(asked.cluster.alive()) == 1
        number = int(asked.cluster.alive()[0].split("-")[-2])
        lay(asked, number)
        await make.once()
        asked.cluster.end(run_of(number), RunStatus.SUCCEEDED)
    assert asked.cluster.started == [run_of(1), run_of(2), run_of(3)]


async def test_a_run_that_dies_is_tried_once_again(asked: Platform) -> None:
    make, reap = loops(asked)
    await rounds(make)
    asked.cluster.end(run_of(), RunStatus.FAILED, output="Killed")
    await rounds(make)
    assert asked.cluster.alive() == [run_of(attempt=2)]
    assert asked.cluster.runs[run_of(attempt=2)].request.environment["TRELLIS_EXPORT_RUN"] == "2"
    asked.cluster.end(run_of(attempt=2), RunStatus.FAILED, output="line\nKilled again\n")
    await rounds(make)
    failed = await read(asked)
    assert failed.state is ExportState.FAILED
    assert failed.error is not None
    assert failed.error.reason == Reason.INTERNAL
    assert "died without a word" in failed.error.message
    assert "Killed again" in failed.error.message
    await reap.once()
    assert asked.cluster.runs == {}
    assert len(asked.cluster.started) == 2


@pytest.mark.parametrize("again", [False, True])
async def test_what_the_process_says_of_its_end_is_told(asked: Platform, again: bool) -> None:
    make, _ = loops(asked)
    await rounds(make)
    tries = 2 if again else 1
    for number in range(1, tries + 1):
        said = ExportFailure(Reason.ADAPTER_INVALID, f"Too small, at try {number}.", again)
        asked.store.put_bytes(f"{export().key}/error-{number}.json", said.to_json())
        asked.cluster.end(run_of(attempt=number), RunStatus.FAILED)
        await rounds(make)
    failed = await read(asked)
    assert failed.error is not None
    assert (failed.error.reason, failed.error.message) == (Reason.ADAPTER_INVALID, f"Too small, at try {tries}.")
    assert len(asked.cluster.started) == tries


async def test_a_run_that_ended_badly_after_its_manifest_has_made_it(asked: Platform) -> None:
    make, _ = loops(asked)
    await rounds(make)
    lay(asked)
    asked.cluster.end(run_of(), RunStatus.FAILED)
    await make.once()
    assert (await read(asked)).state is ExportState.SUCCEEDED


@pytest.mark.parametrize(
    ("change", "why"),
    [({"source": "tenants/acme/adapters/other"}, "another export"), ({"files": {}}, "names no files")],
)
async def test_a_manifest_that_is_wrong_makes_nothing(asked: Platform, change: dict[str, Any], why: str) -> None:
    make, _ = loops(asked)
    await rounds(make)
    lay(asked, **change)
    await make.once()
    failed = await read(asked)
    assert failed.state is ExportState.FAILED
    assert failed.error is not None
    assert why in failed.error.message


async def test_files_that_are_cut_off_make_nothing(asked: Platform) -> None:
    make, _ = loops(asked)
    await rounds(make)
    lay(asked)
    asked.store.put_bytes(f"{export().key}/model.safetensors", b"wei")
    await make.once()
    failed = await read(asked)
    assert failed.error is not None
    assert "model.safetensors has 3 bytes" in failed.error.message


async def test_a_cluster_that_forgot_the_run_is_given_it_again(asked: Platform) -> None:
    make, _ = loops(asked)
    await rounds(make)
    asked.cluster.restart()
    await rounds(make)
    assert asked.cluster.started == [run_of()]


async def test_a_source_that_is_gone_is_named(asked: Platform) -> None:
    async with asked.units() as unit:
        await unit.adapters.delete("acme", samples.adapter().adapter_id)
        await unit.commit()
    await rounds(loops(asked)[0])
    failed = await read(asked)
    assert failed.error is not None
    assert (failed.error.reason, failed.state) == (Reason.RESOURCE_NOT_FOUND, ExportState.FAILED)
    assert "was deleted" in failed.error.message
    assert asked.cluster.started == []


async def test_a_source_whose_manifest_was_damaged_meanwhile_is_named(asked: Platform, engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(update(tables.adapters).values(manifest_json="{"))
    await rounds(loops(asked)[0])
    failed = await read(asked)
    assert failed.error is not None
    assert (failed.error.reason, failed.state) == (Reason.ADAPTER_INVALID, ExportState.FAILED)
    assert samples.adapter().name in failed.error.message
    assert asked.cluster.started == []


async def test_what_is_deleted_while_it_is_made_is_stopped_and_swept(asked: Platform) -> None:
    make, reap = loops(asked)
    await rounds(make)
    await delete_export(asked.app, export().name)
    assert asked.store.list("tenants/acme/exports") == []
    asked.store.put_bytes(f"{export().key}/model.safetensors", b"written too late")
    await reap.once()
    assert asked.cluster.alive() == []
    sweep = SweepObjects(asked.control())
    await sweep.once()
    await sweep.once()
    assert asked.store.list("tenants/acme/exports") == []


async def test_what_is_deleted_while_it_is_made_is_metered_until_then(asked: Platform) -> None:
    make, _ = loops(asked)
    await rounds(make)
    asked.cluster.runs[run_of()].status = RunStatus.RUNNING
    await make.once()
    asked.clock.pass_seconds(4)
    asked.app = replace(asked.app, settings=replace(asked.app.settings, job_cpus=1.0))
    await delete_export(asked.app, export().name)
    async with asked.units(write=False) as unit:
        [metered] = (await unit.ledger.entries(LedgerRange("acme"), 10, None)).items
    assert (metered.resource, metered.quantity) == (export().name, 4000)


async def test_other_runs_are_left_alone(asked: Platform) -> None:
    make, reap = loops(asked)
    await rounds(make)
    request = asked.cluster.runs[run_of()].request
    for run in ("trellis-here-uid-1", "trellis-export-there-export-9-1", "somebody-else"):
        await asked.cluster.submit(replace(request, submission_id=run))
    await reap.once()
    await asked.server().orphans.once()
    assert run_of() in asked.cluster.alive()
    assert "trellis-export-there-export-9-1" in asked.cluster.alive()
    assert "somebody-else" in asked.cluster.alive()


async def test_what_is_being_made_holds_a_cpu(asked: Platform) -> None:
    async with asked.units() as unit:
        assert await held_by_exports(unit, SETTINGS) == Resources()
        await unit.exports.save(export(submission_id=run_of()))
        assert await held_by_exports(unit, SETTINGS) == Resources(1.0)
        await unit.exports.add(export(2))
        await unit.exports.save(export(state=ExportState.RUNNING, submission_id=run_of()))
        assert await held_by_exports(unit, SETTINGS) == Resources(1.0)
        await unit.exports.save(export(state=ExportState.SUCCEEDED, end_time=asked.clock.now()))
        assert await held_by_exports(unit, SETTINGS) == Resources()
    assert export_needs(replace(SETTINGS, job_cpus=0.5)) == Resources(0.5)
    assert export_needs(replace(SETTINGS, job_cpus=8.0)) == Resources(1.0)


async def test_a_trainer_that_is_always_busy_leaves_for_an_export_after_its_turn(asked: Platform) -> None:
    asked.settings = replace(asked.settings, capacity_cpus=1.0)
    server = await admitted(asked)
    shared = SharedTrainer(asked, asked.cluster.started[0])
    await shared.start()
    await shared.work()
    make, _ = loops(asked)
    await rounds(make)
    await server.admit.once()
    (trainer,) = await asked.trainers()
    assert trainer.takes_jobs
    asked.clock.pass_seconds(asked.settings.trainers.turn_seconds)
    await asked.add_jobs(samples.job(2))
    await server.admit.once()
    (trainer,) = await asked.trainers()
    assert not trainer.takes_jobs
    assert (await asked.job()).state is JobState.RUNNING  # what it has it finishes


async def test_folders_of_exports_and_whole_models_are_swept_when_nobody_names_them(asked: Platform) -> None:
    mine = keys.attempt_model_prefix("acme", "uid-old", 3)
    async with asked.units() as unit:
        await unit.exports.add(export(2, key=mine, state=ExportState.SUCCEEDED, end_time=asked.clock.now()))
        await unit.commit()
    await asked.add_jobs(samples.alone())
    async with asked.units() as unit:
        attempt: Attempt = samples.attempt()
        await unit.jobs.add_attempt(attempt)
        await unit.commit()
    going_on = keys.attempt_model_prefix("acme", "uid-acme-1", 1)
    gone = (keys.attempt_model_prefix("acme", "uid-gone", 1), keys.export_prefix("acme", "export-gone"))
    for folder in (mine, going_on, export().key, *gone):
        asked.store.put_bytes(f"{folder}/a", b"x")
    sweep = SweepObjects(asked.control())
    await sweep.once()
    await sweep.once()
    left = {info.key for info in asked.store.list("tenants")}
    assert left == {f"{folder}/a" for folder in (mine, going_on, export().key)}


@pytest.mark.parametrize("length", range(1, 16))
async def test_a_server_may_die_between_any_two_effects(asked: Platform, length: int) -> None:
    """One server lives for so many effects; the next one brings it to its end, and each run is begun once."""
    make, reap = loops(asked, Fuse(length))
    with pytest.raises(Killed):
        await _all(asked, make, reap)
    make, reap = loops(asked)
    await _all(asked, make, reap)
    done = await read(asked)
    assert (done.state, done.cleaned_up) == (ExportState.SUCCEEDED, True)
    assert asked.cluster.runs == {}
    assert asked.cluster.started == [run_of(1, 1), run_of(1, 2)]


async def _all(platform: Platform, make: MakeExports, reap: ReapExports) -> None:
    """The first run dies, the second makes it."""
    for _ in range(4):
        await make.once()
        await reap.once()
    if run_of() in platform.cluster.alive():
        platform.cluster.end(run_of(), RunStatus.FAILED)
    for _ in range(4):
        await make.once()
        await reap.once()
    if run_of(attempt=2) in platform.cluster.alive():
        lay(platform)
        platform.cluster.end(run_of(attempt=2), RunStatus.SUCCEEDED)
    for _ in range(3):
        await make.once()
        await reap.once()
