"""Distributed jobs while nodes come and go: one is lost, the next comes late, too few come, none comes."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from tests.distributed_rig import SECONDS, World, make_world, process, serving
from tests.ray_nodes import ray_nodes, train_workers

from trellis.spec import Distributed
from trellis.v1.worker_pb2 import END_CAUSE_INFRASTRUCTURE, END_CAUSE_PAUSED, STOP_REQUEST_PAUSE

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]
TWO = Distributed(workers=2, zero_stage=2)
LONG = {"full": True, "max_steps": 300, "epochs": 100, "checkpoint_steps": 3, "learning_rate": 1e-3}
_LATE_SECONDS = 4.0


@pytest.fixture
def nodes() -> Iterator[Cluster]:
    """A head on which nothing is computed."""
    soon = {
        "health_check_initial_delay_ms": 1000,
        "health_check_period_ms": 500,
        "health_check_timeout_ms": 2000,
        "health_check_failure_threshold": 3,
    }
    with ray_nodes(num_cpus=0, _system_config=soon) as cluster:
        yield cluster


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


async def test_a_job_outlives_a_lost_node_and_waits_for_all_of_the_next(world: World, nodes: Cluster) -> None:
    nodes.add_node(num_cpus=1)
    lost = nodes.add_node(num_cpus=1)
    work = world.work(TWO, **LONG)
    async with serving(work) as first, process(first, nodes.address) as job:
        await first.until(lambda found: bool(found.checkpoints()), SECONDS)
        nodes.remove_node(lost, allow_graceful=False)
        assert await asyncio.wait_for(job.wait(), SECONDS) == 0
        before, newest = first.losses(), first.checkpoints()[-1]
    assert first.failed is not None
    assert first.failed.cause == END_CAUSE_INFRASTRUCTURE, "whoever submitted the job has done nothing wrong"
    nodes.wait_for_nodes(timeout=60)  # Ray knows of the loss: until then it would place workers there

    work.attempt, work.resume_key, work.resume_step = 2, newest.key, newest.step
    async with serving(work) as second, process(second, nodes.address) as job:
        await second.until(lambda found: found.failed is not None or "waiting for workers" in _phases(found), SECONDS)
        assert second.failed is None, second.failed
        await asyncio.sleep(_LATE_SECONDS)
        assert not train_workers(), "half of the workers would hold what others could use"
        assert not second.losses()
        nodes.add_node(num_cpus=1)
        await second.until(lambda found: found.failed is not None or len(found.losses()) >= 2, SECONDS)
        assert second.failed is None, second.failed
        second.stop = STOP_REQUEST_PAUSE
        assert await asyncio.wait_for(job.wait(), SECONDS) == 0
    assert second.failed is not None
    assert second.failed.cause == END_CAUSE_PAUSED
    again = second.losses()
    assert min(again) == newest.step + 1
    assert second.checkpoints()[-1].step == max(again)
    assert second.steps_reported() == sorted(again)
    both = before.keys() & again.keys()
    assert {step: again[step] for step in both} == pytest.approx({step: before[step] for step in both}, rel=1e-4)


async def test_a_scale_up_that_never_comes_ends_the_attempt_with_a_sentence(
    world: World, nodes: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRELLIS_WORKERS_START_SECONDS", "3")
    nodes.add_node(num_cpus=1)
    began = time.monotonic()
    async with serving(world.work(TWO, **LONG)) as worker, process(worker, nodes.address) as job:
        assert await asyncio.wait_for(job.wait(), SECONDS) == 0
    assert time.monotonic() - began > 3
    assert worker.failed is not None
    assert worker.failed.cause == END_CAUSE_INFRASTRUCTURE
    assert "no room for 2 workers with 1 CPUs each within 3 s" in worker.failed.error.message
    assert not train_workers()


def _phases(worker: object) -> set[str]:
    return {report.progress.phase for report in worker.reports if report.HasField("progress")}  # type: ignore[attr-defined]
