"""A job's stops and checkpoints over a real socket: its process over WorkerService, its user with the SDK."""

import asyncio
import json
import zipfile
from dataclasses import replace
from datetime import UTC
from pathlib import Path

import grpc
import pytest
from tests.rpc_server import Door
from tests.server_fakes import TINY, admit, submit, upload, validate, write_adapter

import trellis
from trellis.bases import read_base
from trellis.cli.main import run
from trellis.server.app.base_models import get_base_model
from trellis.server.app.context import AppSettings
from trellis.server.domain.tuning_job import TuningJob
from trellis.spec import TrainSpec
from trellis.v1 import worker_pb2 as pb
from trellis.v1.worker_pb2_grpc import WorkerServiceStub


@pytest.fixture
def settings() -> AppSettings:
    return AppSettings(capacity_cpus=2.0)


@pytest.fixture
async def door(door: Door) -> Door:
    """With a dataset that was found valid."""
    context = door.world.context
    await validate(context, await upload(context, "acme"), await get_base_model(context, "baseModels/tiny"))
    return door


class Process:
    """A training process of the job, as the server sees it."""

    def __init__(self, door: Door, token: str) -> None:
        self._stub = WorkerServiceStub(door.channel)
        self._key = (("authorization", f"Bearer {token}"),)
        self._reports = 0
        self._store = door.world.store

    async def start(self) -> pb.StartAttemptResponse:
        self.work = await self._stub.StartAttempt(pb.StartAttemptRequest(hostname="h"), metadata=self._key)
        return self.work

    async def report(self, **fields: object) -> pb.ReportAttemptResponse:
        self._reports += 1
        return await self._stub.ReportAttempt(
            pb.ReportAttemptRequest(report=self._reports, **fields), metadata=self._key
        )

    async def checkpoint(self, step: int, folder: Path, valid_loss: float) -> pb.ReportAttemptResponse:
        key = f"{self.work.checkpoint_prefix}/step-{step:08d}-attempt-{self.work.attempt}"
        for file in write_adapter(folder, read_base(str(TINY)), scale=step).iterdir():
            self._store.put_file(f"{key}/{file.name}", file)
        committed = pb.CommittedCheckpoint(step=step, key=key, size_bytes=9, valid_loss=valid_loss)
        usage = pb.AttemptUsage(trained_tokens=10 * step, trainer_seconds=step / 4)
        return await self.report(checkpoints=[committed], usage=usage)

    async def leave(self, cause: "pb.EndCause.ValueType") -> None:
        await self._stub.FailAttempt(pb.FailAttemptRequest(cause=cause), metadata=self._key)


def client_of(door: Door, who: str) -> trellis.AsyncClient:
    return trellis.AsyncClient(door.address, door.secrets[who], tenant="acme")


async def begun(door: Door, job: TuningJob) -> Process:
    token, _ = await admit(door.world.context, job)
    process = Process(door, token)
    await process.start()
    return process


async def test_a_job_pauses_resumes_and_gives_way(door: Door, tmp_path: Path) -> None:
    job = await submit(door.world.context, "acme")
    process = await begun(door, job)
    assert process.work.job_create_time.ToDatetime(UTC) == job.create_time
    async with client_of(door, "member") as user, client_of(door, "admin") as admin:
        assert (await process.report()).stop == pb.STOP_REQUEST_UNSPECIFIED
        assert (await user.jobs.pause(job.name)).state is trellis.JobState.PAUSING
        asked = await process.checkpoint(5, tmp_path / "5", 1.5)
        assert (asked.stop, asked.stop_seconds) == (pb.STOP_REQUEST_PAUSE, 60.0)
        await process.leave(pb.END_CAUSE_PAUSED)
        paused = await user.jobs.get(job.name)
        assert (paused.state, paused.error) == (trellis.JobState.PAUSED, None)
        assert paused.usage == trellis.JobUsage(50, 1.25)
        with pytest.raises(grpc.aio.AioRpcError) as fenced:
            await process.report()
        assert fenced.value.code() is grpc.StatusCode.ABORTED

        assert (await user.jobs.resume(job.name)).state is trellis.JobState.QUEUED
        again = await begun(door, job)
        assert (again.work.attempt, again.work.resume_step, again.work.memory_halvings) == (2, 5, 0)
        with pytest.raises(trellis.PermissionDenied):
            await user.jobs.preempt(job.name)
        await admin.jobs.preempt(job.name, reason="A node goes down.")
        assert (await again.report()).stop == pb.STOP_REQUEST_PREEMPT
        await again.leave(pb.END_CAUSE_OUT_OF_MEMORY)
        third = await begun(door, job)
        assert third.work.memory_halvings == 1
        with pytest.raises(trellis.FailedPrecondition, match="is RUNNING"):
            await user.jobs.resume(job.name)
        assert user.server_version == trellis.__version__


async def test_a_job_goes_on_with_another_number_of_workers(door: Door, tmp_path: Path) -> None:
    job = await submit(door.world.context, "acme", distributed={"workers": 1, "zero_stage": 2})
    process = await begun(door, job)
    async with client_of(door, "member") as user, client_of(door, "stranger") as stranger:
        await user.jobs.pause(job.name)
        with pytest.raises(trellis.FailedPrecondition, match="Only a job that is PAUSED"):
            await user.jobs.resume(job.name, workers=2)
        await process.checkpoint(5, tmp_path / "5", 1.5)
        await process.leave(pb.END_CAUSE_PAUSED)
        with pytest.raises(trellis.PermissionDenied):
            await stranger.jobs.resume(job.name, workers=2)
        with pytest.raises(trellis.InvalidArgument, match="workers: 0 is not between 1 and 1024"):
            await user.jobs.resume(job.name, workers=0)
        resumed = await user.jobs.resume(job.name, workers=2)
        assert (resumed.state, resumed.distributed.workers) == (trellis.JobState.QUEUED, 2)
        again = await begun(door, job)
        spec = TrainSpec.from_json(again.work.train_spec_json)
        assert (again.work.attempt, again.work.resume_step) == (2, 5)
        assert spec == replace(job.spec, distributed=replace(job.spec.distributed, workers=2))


async def test_checkpoints_are_read_pinned_and_promoted(door: Door, tmp_path: Path) -> None:
    job = await submit(door.world.context, "acme")
    process = await begun(door, job)
    for step, loss in ((5, 1.0), (10, 2.0), (15, 3.0)):
        await process.checkpoint(step, tmp_path / str(step), loss)
    async with client_of(door, "member") as user, client_of(door, "stranger") as stranger:
        listed = [(one.step, one.best, one.valid_loss) async for one in user.jobs.checkpoints(job.name)]
        assert listed == [(5, True, 1.0), (10, False, 2.0), (15, False, 3.0)]
        name = f"{job.name}/checkpoints/10"
        assert (await user.jobs.pin_checkpoint(name)).pinned
        await process.checkpoint(20, tmp_path / "20", 4.0)
        assert (await user.jobs.get_checkpoint(name)).pinned
        made = await user.jobs.promote_checkpoint(name, display_name="Early")
        assert made == await user.adapters.get(made.name)
        assert made.tuning_job == job.name
        for call in (stranger.jobs.get_checkpoint, stranger.jobs.pin_checkpoint, stranger.jobs.promote_checkpoint):
            with pytest.raises(trellis.PermissionDenied):
                await call(name)


async def test_a_debug_bundle_of_a_failed_job(door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = await submit(door.world.context, "acme")
    process = await begun(door, job)
    await process.report(log_text="Step 1.\n")
    await process.leave(pb.END_CAUSE_USER)
    target = tmp_path / "bundle.zip"
    code = await run_cli(door, monkeypatch, "jobs", "debug-bundle", job.job_id, "--output", str(target))
    assert code == 0
    with zipfile.ZipFile(target) as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    assert "missing" not in files["README.txt"]
    assert json.loads(files["versions.json"])["server"] == trellis.__version__
    assert json.loads(files["training-report.json"])["valid"] is True
    assert files["log.txt"] == "Step 1.\n"
    assert json.loads(files["events.jsonl"].splitlines()[-1])["state"] == "FAILED"


async def run_cli(door: Door, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setenv("TRELLIS_ENDPOINT", door.address)
    monkeypatch.setenv("TRELLIS_API_KEY", door.secrets["member"])
    monkeypatch.setenv("TRELLIS_TENANT", "acme")
    return await asyncio.to_thread(run, arguments)
