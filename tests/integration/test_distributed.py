"""DeepSpeed under Ray Train on several gloo workers, each a process, against a server that records what it is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from tests.distributed_rig import World, make_world, run_through

from trellis.spec import Distributed

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def ray_address() -> Iterator[str]:
    """Two nodes, each with room for two workers."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    cluster.add_node(num_cpus=2)
    try:
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path)


async def test_two_workers_give_the_losses_of_one(world: World, ray_address: str) -> None:
    alone = await run_through(world.work(Distributed(workers=1, zero_stage=1), full=True), ray_address)
    assert alone.failed is None
    assert alone.completed is not None
    assert sorted(alone.losses()) == list(range(1, 7))
    spread = await run_through(world.work(Distributed(workers=2, zero_stage=2), full=True), ray_address)
    assert spread.completed is not None
    assert spread.losses() == pytest.approx(alone.losses(), rel=1e-4)
