"""The training job as a process of its own, against a server that records what it is told."""

import asyncio
import contextlib
import hashlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from tests.recording_worker import TOKEN, RecordingWorker
from tests.tiny_llama import chat_line, write_tiny_llama

from trellis.artifacts import Manifest, check_adapter_folder
from trellis.bases import read_base
from trellis.objects import ObjectStore
from trellis.spec import Lora, TrainSpec
from trellis.tokens import ChatTokenizer
from trellis.v1.worker_pb2 import (
    END_CAUSE_CANCELLED,
    END_CAUSE_INFRASTRUCTURE,
    END_CAUSE_PAUSED,
    END_CAUSE_USER,
    STOP_REQUEST_CANCEL,
    STOP_REQUEST_PAUSE,
    StartAttemptResponse,
)

COLOURS = ("red", "green", "blue", "amber")
THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "HF_HUB_OFFLINE": "1"}
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base"))


@dataclass
class World:
    """A store with a dataset, and a spec that trains on it."""

    store: ObjectStore
    spec: TrainSpec

    def work(self, **changes: object) -> StartAttemptResponse:
        spec = replace(self.spec, **changes)
        return StartAttemptResponse(
            tuning_job="tenants/acme/tuningJobs/job-1",
            attempt=1,
            train_spec_json=spec.to_json(),
            store_url=self.store.url,
            training_key="data/train.jsonl",
            checkpoint_prefix="jobs/1/checkpoints",
            adapter_prefix="jobs/1/attempts/1/adapter",
            heartbeat_seconds=5,
            next_report=1,
        )


@pytest.fixture
def world(base_folder: Path, tmp_path: Path) -> World:
    lines = [chat_line(f"what colour is {number}?", COLOURS[number % 4]) for number in range(40)]
    data = "\n".join(lines).encode()
    store = ObjectStore.open(str(tmp_path / "store"))
    store.put_bytes("data/train.jsonl", data)
    spec = TrainSpec(
        base_model="baseModels/tiny",
        base_source=str(base_folder),
        base_revision=read_base(str(base_folder)).revision,
        tokenizer_digest=ChatTokenizer.load(base_folder).digest,
        training_dataset="tenants/acme/datasets/colours/versions/" + hashlib.sha256(data).hexdigest(),
        training_sha256=hashlib.sha256(data).hexdigest(),
        context_length=64,
        lora=Lora(rank=4, alpha=8.0, dropout=0.1),
        batch_size=8,
        max_evaluation_lines=4,
        learning_rate=1e-2,
    )
    return World(store, spec)


@contextlib.asynccontextmanager
async def serving(work: StartAttemptResponse) -> AsyncIterator[RecordingWorker]:
    worker = RecordingWorker(work)
    await worker.up()
    try:
        yield worker
    finally:
        await worker.down()


@contextlib.asynccontextmanager
async def process(worker: RecordingWorker) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {
        **os.environ,
        **THREADS,
        "TRELLIS_WORKER_ENDPOINT": worker.address,
        "TRELLIS_ATTEMPT_TOKEN": TOKEN,
    }
    job = await asyncio.create_subprocess_exec(sys.executable, "-m", "trellis_jobs.tune", env=environment)
    try:
        yield job
    finally:
        with contextlib.suppress(ProcessLookupError):
            job.kill()
        await job.wait()


async def run_through(work: StartAttemptResponse) -> RecordingWorker:
    async with serving(work) as worker, process(worker) as job:
        assert await asyncio.wait_for(job.wait(), 120) == 0
        return worker


def reason(worker: RecordingWorker) -> str:
    assert worker.failed is not None
    info = ErrorInfo()
    assert worker.failed.error.details[0].Unpack(info)
    return info.reason


def has_checkpoint(step: int) -> Callable[[RecordingWorker], bool]:
    return lambda worker: any(found.step >= step for found in worker.checkpoints())


async def test_a_job_trains_evaluates_and_hands_in_an_adapter(world: World, base_folder: Path, tmp_path: Path) -> None:
    worker = await run_through(world.work(epochs=4))

    done = worker.completed
    assert done is not None
    assert worker.failed is None
    losses = worker.losses()
    assert sorted(losses) == worker.steps_reported() == list(range(1, 21))  # 36 lines make 5 steps an epoch
    assert done.tuned_evaluation.loss < done.base_evaluation.loss
    assert done.tuned_evaluation.line_count == done.tuned_evaluation.answered_line_count == 4
    assert done.usage.trained_tokens > 0

    manifest = Manifest.from_json(world.store.read_bytes("jobs/1/attempts/1/adapter/manifest.json"))
    assert manifest.digest == done.adapter_digest
    assert manifest.spec is not None
    assert manifest.spec["epochs"] == 4
    for name, facts in manifest.files.items():
        world.store.get_file(f"jobs/1/attempts/1/adapter/{name}", tmp_path / "adapter" / name)
        assert hashlib.sha256((tmp_path / "adapter" / name).read_bytes()).hexdigest() == facts.sha256
    assert check_adapter_folder(tmp_path / "adapter", read_base(str(base_folder))).rank == 4

    progress = [report.progress for report in worker.reports if report.HasField("progress")]
    assert progress[-1].phase == "evaluating the adapter"
    assert progress[-1].step == progress[-1].total_steps == 20
    assert "Step 20 of 20" in worker.log()
    assert any("36 lines" in event for event in worker.events())


async def test_a_killed_job_goes_on_as_if_it_had_not_been(world: World) -> None:
    work = world.work(epochs=60, checkpoint_steps=20)
    async with serving(work) as worker, process(worker) as job:
        await worker.until(has_checkpoint(20))
        assert job.returncode is None
        job.kill()
        await job.wait()
        before = worker.losses()
        newest = worker.checkpoints()[-1]
    assert newest.step < 300

    work.attempt, work.resume_key, work.resume_step = 2, newest.key, newest.step
    world.store.put_bytes(f"{work.checkpoint_prefix}/step-00000290-attempt-1/adapter.safetensors", b"not committed")
    resumed = await run_through(work)
    assert min(resumed.losses()) == newest.step + 1

    world.store.delete_prefix(work.checkpoint_prefix)
    work.attempt, work.resume_key, work.resume_step = 1, "", 0
    whole = await run_through(work)
    assert {**before, **resumed.losses()} == whole.losses()
    assert resumed.completed is not None
    assert whole.completed is not None
    assert resumed.completed.tuned_evaluation == whole.completed.tuned_evaluation
    assert resumed.completed.adapter_digest == whole.completed.adapter_digest

    committed = [found.key for found in world.store.list(work.checkpoint_prefix) if found.key.endswith("/COMMIT")]
    assert [key.split("/")[-2] for key in committed][-1] == "step-00000300-attempt-1"


async def test_a_job_stops_when_it_is_cancelled(world: World) -> None:
    async with serving(world.work(epochs=100, batch_size=1)) as worker, process(worker) as job:
        await worker.until(lambda found: bool(found.losses()))
        worker.stop = STOP_REQUEST_CANCEL
        assert await asyncio.wait_for(job.wait(), 10) == 0
        assert worker.failed is not None
        assert worker.failed.cause == END_CAUSE_CANCELLED
        assert worker.completed is None
    assert not world.store.exists("jobs/1/attempts/1/adapter/manifest.json")


async def test_a_job_that_is_paused_leaves_a_checkpoint_that_is_known(world: World) -> None:
    async with (
        serving(world.work(epochs=100, batch_size=1, checkpoint_steps=1_000_000)) as worker,
        process(worker) as job,
    ):
        await worker.until(lambda found: bool(found.losses()))
        worker.stop = STOP_REQUEST_PAUSE
        assert await asyncio.wait_for(job.wait(), 20) == 0
        assert worker.failed is not None
        assert worker.failed.cause == END_CAUSE_PAUSED
        assert [found.step for found in worker.checkpoints()] == [max(worker.losses())]


async def test_a_fenced_job_is_gone_at_once(world: World) -> None:
    async with serving(world.work(epochs=100, batch_size=1)) as worker, process(worker) as job:
        await worker.until(lambda found: bool(found.losses()))
        worker.fenced = True
        assert await asyncio.wait_for(job.wait(), 10) == 3
        assert worker.failed is None


async def test_a_job_lives_through_the_server_being_away(world: World) -> None:
    async with serving(world.work(epochs=40)) as worker, process(worker) as job:
        await worker.until(lambda found: bool(found.losses()))
        await worker.down()
        await worker.up()
        assert await asyncio.wait_for(job.wait(), 120) == 0
        assert worker.completed is not None
        assert worker.steps_reported() == list(range(1, 201))


async def test_divergence_ends_the_job_with_the_step_and_lines(world: World) -> None:
    worker = await run_through(world.work(epochs=100, learning_rate=1.0, lora=Lora(rank=4, alpha=1e4)))
    assert reason(worker) == "TRAINING_DIVERGED"
    assert worker.failed is not None
    assert worker.failed.cause == END_CAUSE_USER
    assert "step" in worker.failed.error.message
    assert "lines" in worker.failed.error.message


async def test_an_unknown_module_is_the_users_error(world: World) -> None:
    worker = await run_through(world.work(lora=Lora(rank=4, target_modules=("q_proj", "no_such_proj"))))
    assert reason(worker) == "INVALID_FIELD"
    assert worker.failed is not None
    assert worker.failed.cause == END_CAUSE_USER
    assert "'no_such_proj'" in worker.failed.error.message
    assert "q_proj" in worker.failed.error.message


async def test_a_refused_adapter_fails_the_job(world: World) -> None:
    async with serving(world.work(max_steps=2)) as worker, process(worker) as job:
        worker.refuse_completion = "The files are wrong."
        assert await asyncio.wait_for(job.wait(), 120) == 0
        assert reason(worker) == "ARTIFACT_REJECTED"
        assert worker.failed is not None
        assert "The files are wrong." in worker.failed.error.message


async def test_a_process_that_is_told_to_stop_asks_for_another_attempt(world: World) -> None:
    async with serving(world.work(epochs=100, batch_size=1)) as worker, process(worker) as job:
        await worker.until(lambda found: bool(found.losses()))
        job.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(job.wait(), 30) == 0
        assert worker.failed is not None
        assert worker.failed.cause == END_CAUSE_INFRASTRUCTURE
