"""The shared trainer as a process of its own, against a server that gives it attempts and records what it is told."""

import asyncio
import hashlib
import signal
from pathlib import Path

import pytest
from tests.shared_trainer_rig import World, make_world, process, run_all, serving
from tests.tiny_llama import write_tiny_llama

from trellis.artifacts import Manifest, check_adapter_folder
from trellis.bases import read_base
from trellis.spec import Lora
from trellis.v1.worker_pb2 import (
    END_CAUSE_CANCELLED,
    END_CAUSE_DECLINED,
    END_CAUSE_INFRASTRUCTURE,
    END_CAUSE_PREEMPTED,
    END_CAUSE_USER,
    STOP_REQUEST_CANCEL,
)

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture
def world(base_folder: Path, tmp_path: Path) -> World:
    return make_world(base_folder, tmp_path / "store")


async def test_two_jobs_train_side_by_side_and_hand_in_their_adapters(
    world: World, base_folder: Path, tmp_path: Path
) -> None:
    works = world.work("one", epochs=4), world.work("two", epochs=2, lora=Lora(rank=8, alpha=8.0), seed=3)
    one, two = await run_all(world, *works)
    for attempt, steps in ((one, 20), (two, 10)):
        done = attempt.completed
        assert attempt.failed is None
        assert done is not None
        assert attempt.steps() == list(range(1, steps + 1))  # 36 lines make 5 steps an epoch
        assert done.tuned_evaluation.loss < done.base_evaluation.loss
        assert done.tuned_evaluation.line_count == done.tuned_evaluation.answered_line_count == 4
        assert done.usage.trained_tokens > 0
        assert done.usage.trainer_seconds > 0
        assert attempt.phases()[-1] == "evaluating the adapter"
        assert f"Step {steps} of {steps}" in attempt.log()
        assert any("36 lines" in event for event in attempt.events())
    assert "tuningJobs/two" not in one.log()

    manifest = Manifest.from_json(world.store.read_bytes("jobs/one/attempts/1/adapter/manifest.json"))
    assert one.completed is not None
    assert manifest.digest == one.completed.adapter_digest
    for name, facts in manifest.files.items():
        world.store.get_file(f"jobs/one/attempts/1/adapter/{name}", tmp_path / "adapter" / name)
        assert hashlib.sha256((tmp_path / "adapter" / name).read_bytes()).hexdigest() == facts.sha256
    adapter = check_adapter_folder(tmp_path / "adapter", read_base(str(base_folder)))
    assert adapter.rank == 4
    assert adapter.target_modules == read_base(str(base_folder)).linear_names


async def test_a_trainer_leaves_when_it_is_idle_or_drained(world: World) -> None:
    async with serving(world.platform(idle_seconds=600)) as platform, process(platform) as trainer:
        await platform.until(lambda: any(claim.HasField("room") for claim in platform.claims))
        assert not platform.left
        room = platform.claims[-1].room
        assert (room.jobs, room.line_tokens) == (8, 128)  # all of the tiny base's context
        assert room.rank_rows >= 256
        platform.drain = True
        assert await asyncio.wait_for(trainer.wait(), 30) == 0
        assert platform.left


async def test_a_job_without_room_is_declined_with_the_numbers(world: World, base_folder: Path) -> None:
    row = sum(map(sum, read_base(str(base_folder)).linear_shapes.values()))
    async with serving(world.platform()) as platform, process(platform, TRELLIS_TRAINER_RANK_ROWS="32"):
        platform.heedless = True
        small, large = await platform.give(
            world.work("small", epochs=100, batch_size=1), world.work("large", lora=Lora(rank=29))
        )
        await platform.until(lambda: large.over)
        assert large.failed is not None
        assert large.failed.cause == END_CAUSE_DECLINED
        assert large.failed.error.message == (
            f"The adapter has {29 * row:,} numbers; of the trainer's room for {32 * row:,} only {28 * row:,} are left."
        )
        assert not small.over
        await platform.until(lambda: platform.claims[-1].room.rank_rows == 28)


async def test_a_cancelled_job_stops_and_its_place_is_free(world: World) -> None:
    async with serving(world.platform()) as platform, process(platform):
        (one,) = await platform.give(world.work("one", epochs=100, batch_size=1))
        await platform.until(lambda: bool(one.steps()))
        one.stop = STOP_REQUEST_CANCEL
        await platform.until(lambda: one.over, 10)
        assert one.failed is not None
        assert one.failed.cause == END_CAUSE_CANCELLED
        assert one.failed.usage.trained_tokens > 0
        await platform.until(lambda: platform.claims[-1].room.jobs == 8)
    assert not world.store.exists("jobs/one/attempts/1/adapter/manifest.json")


async def test_a_fenced_attempt_is_dropped_and_the_others_go_on(world: World) -> None:
    async with serving(world.platform()) as platform, process(platform) as trainer:
        one, two = await platform.give(
            world.work("one", epochs=100, batch_size=1), world.work("two", epochs=100, batch_size=1)
        )
        await platform.until(lambda: bool(one.steps() and two.steps()))
        one.fenced = True
        await platform.until(lambda: platform.claims[-1].room.jobs == 7)
        seen = len(two.steps())
        await platform.until(lambda: len(two.steps()) > seen)
        assert one.failed is None
        assert trainer.returncode is None


async def test_a_fenced_trainer_is_gone_at_once(world: World) -> None:
    async with serving(world.platform()) as platform, process(platform) as trainer:
        (one,) = await platform.give(world.work("one", epochs=100, batch_size=1))
        await platform.until(lambda: bool(one.steps()))
        platform.fenced = True
        assert await asyncio.wait_for(trainer.wait(), 30) == 3


async def test_a_trainer_that_is_told_to_end_saves_its_jobs_and_gives_them_back(world: World) -> None:
    async with serving(world.platform()) as platform, process(platform) as trainer:
        (one,) = await platform.give(world.work("one", epochs=50, batch_size=1))
        await platform.until(lambda: bool(one.steps()))
        trainer.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(trainer.wait(), 30) == 0
        assert one.failed is not None
        assert one.failed.cause == END_CAUSE_PREEMPTED
        assert one.checkpoints()[-1].step == one.steps()[-1]


async def test_jobs_live_through_the_server_being_away(world: World) -> None:
    async with serving(world.platform(idle_seconds=0.3)) as platform, process(platform) as trainer:
        (one,) = await platform.give(world.work("one", epochs=40))
        await platform.until(lambda: bool(one.steps()))
        await platform.down()
        await platform.up()
        assert await asyncio.wait_for(trainer.wait(), 120) == 0
        assert one.completed is not None
        assert one.steps() == list(range(1, 201))


async def test_what_is_wrong_with_a_job_is_told_of_that_job_alone(world: World) -> None:
    unknown = world.work("unknown", lora=Lora(rank=4, target_modules=("q_proj", "no_such_proj")))
    missing = world.work("missing")
    missing.training_key = "data/none.jsonl"
    other = world.work("other", base_revision="sha256:" + "0" * 64)
    sound = world.work("sound", max_steps=2)
    attempts = await run_all(world, unknown, missing, other, sound)
    assert [attempt.reason() for attempt in attempts[:3]] == ["INVALID_FIELD", "TRAINING_FAILED", "BASE_MODEL_INVALID"]
    causes = [attempt.failed.cause for attempt in attempts[:3] if attempt.failed]
    assert causes == [END_CAUSE_USER, END_CAUSE_INFRASTRUCTURE, END_CAUSE_USER]
    assert "'no_such_proj'" in attempts[0].events()[-1]
    assert attempts[3].completed is not None


async def test_a_refused_adapter_fails_its_job(world: World) -> None:
    async with serving(world.platform()) as platform, process(platform):
        (one,) = await platform.give(world.work("one", max_steps=2))
        one.refuse_completion = "The files are wrong."
        await platform.until(lambda: one.over)
        assert one.reason() == "ARTIFACT_REJECTED"
        assert one.failed is not None
        assert "The files are wrong." in one.failed.error.message
