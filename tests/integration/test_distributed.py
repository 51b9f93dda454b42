"""DeepSpeed under Ray Train on two nodes, one worker on each, against a server that records what it is told."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.distributed_rig import SECONDS, World, make_world, process, run_through, serving
from tests.ray_nodes import ray_nodes, train_workers
from tests.recording_worker import RecordingWorker

from trellis.exports import check_contents, read_manifest
from trellis.spec import Distributed
from trellis.v1.worker_pb2 import END_CAUSE_CANCELLED, END_CAUSE_INFRASTRUCTURE, STOP_REQUEST_CANCEL

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]
TWO = Distributed(workers=2, zero_stage=2)
LONG = {"full": True, "max_steps": 300, "epochs": 100, "checkpoint_steps": 5, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """Two nodes, each with room for one worker."""
    with ray_nodes(num_cpus=1) as cluster:
        cluster.add_node(num_cpus=1)
        yield cluster.address


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


async def test_a_killed_worker_ends_the_attempt(world: World, ray_address: str) -> None:
    async with serving(world.work(TWO, **LONG)) as worker, process(worker, ray_address) as job:
        await worker.until(lambda found: bool(found.losses()), SECONDS)
        workers = train_workers()
        assert len(workers) >= 2
        os.kill(workers[-1], signal.SIGKILL)
        assert await asyncio.wait_for(job.wait(), SECONDS) == 0
    assert worker.failed is not None
    assert worker.failed.cause == END_CAUSE_INFRASTRUCTURE
    assert worker.completed is None
    assert worker.failed.usage.trained_tokens > 0


async def test_two_nodes_train_all_weights_and_hand_in_a_model(world: World, ray_address: str) -> None:
    worker: RecordingWorker = await run_through(world.work(TWO, full=True), ray_address)
    assert worker.failed is None
    done = worker.completed
    assert done is not None
    assert not done.adapter_digest
    check_contents(world.store, "jobs/1/model", read_manifest(world.store, "jobs/1/model", done.model_digest))
    assert sorted(worker.losses()) == worker.steps_reported() == list(range(1, 7))
    assert done.tuned_evaluation.loss < done.base_evaluation.loss
    assert done.usage.trained_tokens > 0
    assert done.usage.trainer_seconds > 0
    assert any(event.startswith("ZeRO-2: 26,976 parameters") for event in worker.events())
    assert "Step 6 of 6" in worker.log()
    assert "DeepSpeed's config" in worker.log()
    progress = [report.progress for report in worker.reports if report.HasField("progress")]
    assert progress[-1].step == progress[-1].total_steps == 6


@pytest.mark.parametrize("how", ["cancelled", "terminated", "fenced"])
async def test_an_attempt_leaves_when_it_is_told_to(world: World, ray_address: str, how: str) -> None:
    async with serving(world.work(Distributed(workers=1), **LONG)) as worker, process(worker, ray_address) as job:
        await worker.until(lambda found: bool(found.losses()), SECONDS)
        if how == "cancelled":
            worker.stop = STOP_REQUEST_CANCEL
        elif how == "fenced":
            worker.fenced = True
        else:
            job.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(job.wait(), 60) == (3 if how == "fenced" else 0)
        assert worker.completed is None
    if how == "fenced":
        assert worker.failed is None
    else:
        assert worker.failed is not None
        assert worker.failed.cause == (END_CAUSE_CANCELLED if how == "cancelled" else END_CAUSE_INFRASTRUCTURE)
    assert not world.store.exists("jobs/1/model/manifest.json")
