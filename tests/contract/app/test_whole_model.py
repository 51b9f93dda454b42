"""The end of a job that trains all weights: its model is checked, and becomes an export."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.contract.app.test_attempts import events_of, fenced
from tests.server_fakes import LINES, World, admit, collected, submit, upload, used, validate

from trellis.errors import FailedPrecondition, InvalidArgument, Reason
from trellis.exports import ExportManifest, put_folder, write_manifest
from trellis.server.app import attempts, completion, exports, keys
from trellis.server.app.attempt_usage import AttemptUsage
from trellis.server.app.attempts import Process
from trellis.server.app.completion import Completion
from trellis.server.app.whole_model import check_model
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.caller import Caller
from trellis.server.domain.export import ExportState
from trellis.server.domain.ledger import Meter
from trellis.server.domain.tuning_job import JobState, TuningJob
from trellis.spec import Distributed

FILES = {"config.json": b"{}", "model.safetensors": b"weights" * 400_000, "tokenizer.json": b"{}"}


async def running(world: World, base: BaseModel) -> tuple[TuningJob, Caller]:
    """A job that trains all weights, whose attempt runs."""
    await validate(world.context, await upload(world.context, "acme", LINES), base)
    job = await submit(world.context, "acme")
    async with world.context.units() as unit:
        present = await unit.jobs.get_by_uid(job.uid, for_update=True)
        assert present is not None
        spec = replace(present.spec, full=True, distributed=Distributed(), auto=())
        job = await unit.jobs.save(replace(present, spec=spec))
        await unit.commit()
    _, caller = await admit(world.context, job)
    await attempts.start_attempt(world.context, caller, Process("1", "host", 1))
    return job, caller


def lay(world: World, job: TuningJob, folder: Path, **changes: Any) -> str:
    """What the attempt's process leaves; the manifest's digest."""
    prefix = keys.attempt_model_prefix(job.tenant, job.uid, 1)
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    spec = job.spec
    manifest = ExportManifest(
        format="SAFETENSORS",
        base_model=spec.base_model,
        base_revision=spec.base_revision,
        tokenizer_digest=spec.tokenizer_digest,
        files=put_folder(world.store, prefix, folder),
        source=job.name,
        tuning_job=job.name,
        spec=json.loads(spec.to_json()),
    )
    return write_manifest(world.store, prefix, replace(manifest, **changes))


async def test_the_model_becomes_an_export_that_can_be_read(world: World, base: BaseModel, tmp_path: Path) -> None:
    job, caller = await running(world, base)
    digest = lay(world, job, tmp_path / "model")
    done = Completion(model_digest=digest, usage=AttemptUsage(100, 2.5))
    name = await completion.complete_attempt(world.context, caller, done)
    assert await completion.complete_attempt(world.context, caller, done) == name
    export = await exports.get_export(world.context, name)
    assert (export.state, export.source, export.base_model) == (ExportState.SUCCEEDED, job.name, base.name)
    assert {file.path: file.size_bytes for file in export.files}.items() >= {(n, len(d)) for n, d in FILES.items()}
    assert next(file.sha256 for file in export.files if file.path == "manifest.json") == digest
    pieces: list[Any] = await collected(exports.read_export_file(world.context, name, "model.safetensors", 5))
    assert b"".join(piece.data for piece in pieces) == FILES["model.safetensors"][5:]
    async with world.context.units(write=False) as unit:
        ended = await unit.jobs.get_by_uid(job.uid)
    assert ended is not None
    assert (ended.state, ended.export_id, ended.adapter_digest) == (JobState.SUCCEEDED, export.export_id, "")
    usage = await used(world.context, "acme")
    assert usage == {Meter.TRAINED_TOKENS: 100, Meter.ACCELERATOR_MILLISECONDS: 5000}
    assert (await events_of(world, job))[-1].message == f"The job made {name}."
    await fenced(completion.complete_attempt(world.context, caller, Completion(model_digest="0" * 64)))
    await exports.delete_export(world.context, name)
    assert world.store.list("tenants/acme/models") == []
    assert await completion.complete_attempt(world.context, caller, done) == name


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tuning_job": "tenants/acme/tuningJobs/other"}, "tuning_job is not the job's"),
        ({"source": "tenants/acme/adapters/x"}, "source is not the job's"),
        ({"base_revision": "other"}, "base_revision is not the job's"),
        ({"tokenizer_digest": "other"}, "tokenizer_digest is not the job's"),
        ({"adapter_digest": "0" * 64}, "adapter_digest is not the job's"),
        ({"format": "GGUF"}, "format is not the job's"),
        ({"files": {}}, "names no config"),
    ],
)
async def test_a_manifest_of_something_else_is_refused(
    world: World, base: BaseModel, tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    job, caller = await running(world, base)
    digest = lay(world, job, tmp_path / "model", **changes)
    with pytest.raises(FailedPrecondition, match=why) as caught:
        await completion.complete_attempt(world.context, caller, Completion(model_digest=digest))
    assert caught.value.reason == Reason.ADAPTER_INVALID


async def test_files_that_are_others_are_refused(world: World, base: BaseModel, tmp_path: Path) -> None:
    job, caller = await running(world, base)
    digest = lay(world, job, tmp_path / "model")
    for wrong in ("0" * 64, ""):
        with pytest.raises(FailedPrecondition, match=r"digest"):
            await completion.complete_attempt(world.context, caller, Completion(model_digest=wrong))
    prefix = keys.attempt_model_prefix(job.tenant, job.uid, 1)
    spoiled = FILES["model.safetensors"][:-1] + b"!"
    world.store.put_bytes(f"{prefix}/model.safetensors", spoiled)
    with pytest.raises(FailedPrecondition, match="does not have the sha256"):
        await completion.complete_attempt(world.context, caller, Completion(model_digest=digest))
    world.store.delete(f"{prefix}/model.safetensors")
    with pytest.raises(FailedPrecondition, match="is missing"):
        await completion.complete_attempt(world.context, caller, Completion(model_digest=digest))
    async with world.context.units(write=False) as unit:
        going_on = await unit.jobs.get_by_uid(job.uid)
    assert going_on is not None
    assert going_on.state is JobState.RUNNING


async def test_of_a_large_model_the_sizes_must_do(world: World, base: BaseModel, tmp_path: Path) -> None:
    job, caller = await running(world, base)
    digest = lay(world, job, tmp_path / "model")
    prefix = keys.attempt_model_prefix(job.tenant, job.uid, 1)
    world.store.put_bytes(f"{prefix}/model.safetensors", b"x" * len(FILES["model.safetensors"]))
    async with world.context.units(write=False) as unit:
        attempt = await unit.jobs.get_attempt(job.uid, 1)
    assert attempt is not None
    assert check_model(world.store, job, attempt, digest, read_bytes=1000).digest == digest
    world.store.put_bytes(f"{prefix}/model.safetensors", b"x")
    with pytest.raises(FailedPrecondition, match="has 1 bytes"):
        check_model(world.store, job, attempt, digest, read_bytes=1000)
    assert caller.attempt is not None


async def test_there_is_no_adapter_to_point_an_alias_at_or_to_deploy(world: World, base: BaseModel) -> None:
    await validate(world.context, await upload(world.context, "acme", LINES), base)
    with pytest.raises(InvalidArgument) as caught:
        await submit(world.context, "acme", alias="tenants/acme/aliases/a", deploy=True, settings={"full": True})
    fields = {violation.field for violation in caught.value.violations}
    assert fields == {"tuning_job.alias", "tuning_job.deploy"}
