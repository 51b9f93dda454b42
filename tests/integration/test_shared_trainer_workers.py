"""A shared trainer of two workers, the second of which it starts as an actor on Ray."""

import asyncio
import os
from pathlib import Path

import pytest
from tests.local_ray import local_ray
from tests.shared_trainer_rig import make_world, process, run_all, serving
from tests.tiny_llama import write_tiny_llama

from trellis.local.ray_head import ray_environment

SETTINGS = {"max_steps": 6, "batch_size": 12, "gradient_accumulation_steps": 4}
pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


async def test_a_trainer_starts_its_workers_on_ray_and_ends_them(tmp_path: Path) -> None:
    world = make_world(write_tiny_llama(tmp_path / "base"), tmp_path / "store")
    (alone,) = await run_all(world, world.work("alone", **SETTINGS))
    with local_ray(2) as ray:
        environment = ray_environment(os.environ, ray.token_file)
        environment["RAY_ADDRESS"] = f"127.0.0.1:{ray.ports.gcs}"
        async with serving(world.platform(idle_seconds=0.3, workers=2, worker_cpus=1.0)) as platform:
            (spread,) = await platform.give(world.work("spread", **SETTINGS))
            async with process(platform, **environment) as trainer:
                assert await asyncio.wait_for(trainer.wait(), 300) == 0
    assert spread.failed is None
    assert list(spread.losses().values()) == pytest.approx(list(alone.losses().values()), rel=1e-4)
