"""On the shared trainer a job's losses and weights are the same bits, alone and beside others, stopped or killed."""

import asyncio
import json
from pathlib import Path

import pytest
from tests.recording_trainer import Recorded
from tests.shared_trainer_rig import World, make_world, process, run_all, serving
from tests.tiny_llama import write_tiny_llama

from trellis.artifacts import check_adapter_folder
from trellis.bases import read_base
from trellis.spec import Lora, Preference
from trellis.v1.worker_pb2 import (
    END_CAUSE_PAUSED,
    END_CAUSE_USER,
    STOP_REQUEST_PAUSE,
    STOP_REQUEST_UNSPECIFIED,
    CompleteAttemptRequest,
    StartAttemptResponse,
)

WATCHED = {"epochs": 16, "checkpoint_steps": 20, "evaluation_steps": 15}
"""80 steps, with dropout."""
LONG = {**WATCHED, "epochs": 80, "checkpoint_steps": 100, "evaluation_steps": 75}
"""400 steps: more than are done before a request to pause is heard."""
pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture
def world(base_folder: Path, tmp_path: Path) -> World:
    return make_world(base_folder, tmp_path / "store")


def completion(attempt: Recorded) -> CompleteAttemptRequest:
    assert attempt.failed is None
    assert attempt.completed is not None
    return attempt.completed


async def test_a_job_is_the_same_bits_whoever_comes_goes_pauses_or_crashes(world: World) -> None:
    (alone,) = await run_all(world, world.work("alone", **WATCHED))
    async with serving(world.platform(idle_seconds=0.3)) as platform:
        watched, *_ = others = await platform.give(
            world.work("watched", **WATCHED),
            world.work("beside", epochs=16, batch_size=5, lora=Lora(rank=20, alpha=4.0), seed=7),
            world.work("diverging", epochs=16, learning_rate=1.0, lora=Lora(rank=8, alpha=1e4)),
            world.work("paused", epochs=100, batch_size=3, lora=Lora(rank=12, target_modules=("q_proj", "down_proj"))),
        )
        async with process(platform) as trainer:
            await platform.until(lambda: len(watched.steps()) > 2)
            others[3].stop = STOP_REQUEST_PAUSE
            others += await platform.give(world.work("late", epochs=4, seed=5))
            await platform.until(lambda: all(attempt.over for attempt in others))
            assert await asyncio.wait_for(trainer.wait(), 60) == 0

    assert watched.steps() == list(range(1, 81))
    assert watched.losses() == alone.losses()
    assert watched.valid_losses() == alone.valid_losses()
    assert world.weights("watched") == world.weights("alone")
    assert completion(watched).base_evaluation == completion(alone).base_evaluation
    assert completion(watched).tuned_evaluation == completion(alone).tuned_evaluation

    diverging, paused = others[2], others[3]
    assert diverging.reason() == "TRAINING_DIVERGED"
    assert diverging.failed is not None
    assert diverging.failed.cause == END_CAUSE_USER
    assert "step" in diverging.failed.error.message
    assert "It learnt from lines" in diverging.failed.error.message
    assert paused.failed is not None
    assert paused.failed.cause == END_CAUSE_PAUSED
    completion(others[4])


async def test_a_paused_job_goes_on_as_if_it_had_not_been(world: World) -> None:
    (whole,) = await run_all(world, world.work("whole", **LONG))
    async with serving(world.platform()) as platform, process(platform):
        work = world.work("paused", **LONG)
        (first,) = await platform.give(work)
        await platform.until(lambda: len(first.steps()) > 2)
        first.stop = STOP_REQUEST_PAUSE
        await platform.until(lambda: first.over)
        assert first.failed is not None
        assert first.failed.cause == END_CAUSE_PAUSED
        stopped_at = first.checkpoints()[-1].step
        assert 0 < stopped_at < 400
        second, _ = await platform.give(world.resumed(work, first), world.work("beside", epochs=8, seed=2))
        await platform.until(lambda: second.over)
    assert second.steps() == list(range(stopped_at + 1, 401))
    assert {**first.losses(), **second.losses()} == whole.losses()
    assert world.weights("paused", 2) == world.weights("whole")
    assert completion(second).tuned_evaluation == completion(whole).tuned_evaluation
    assert completion(second).base_evaluation == completion(whole).base_evaluation


async def test_a_killed_trainers_job_goes_on_elsewhere(world: World, tmp_path: Path, base_folder: Path) -> None:
    (whole,) = await run_all(world, world.work("whole", **WATCHED))
    work = world.work("killed", **WATCHED)
    async with serving(world.platform()) as platform, process(platform) as trainer:
        first, _ = await platform.give(work, world.work("beside", epochs=100, seed=3))
        await platform.until(lambda: any(found.step >= 20 for found in first.checkpoints()))
        trainer.kill()
        await trainer.wait()
    newest = first.checkpoints()[-1]

    # A checkpoint is an adapter that can be deployed, or started from.
    folder = tmp_path / "checkpoint"
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        world.store.get_file(f"{newest.key}/{name}", folder / name)
    assert check_adapter_folder(folder, read_base(str(base_folder))).rank == 4

    second, _ = await run_all(world, world.resumed(work, first), world.work("other", epochs=3, seed=9))
    assert second.steps() == list(range(newest.step + 1, 81))
    assert {**first.losses(), **second.losses()} == whole.losses()
    assert world.weights("killed", 2) == world.weights("whole")


async def test_preferences_keep_their_reference_over_a_pause(world: World) -> None:
    lines = [
        {"prompt": f"what colour is {number}? ", "chosen": "red and warm", "rejected": "grey"} for number in range(24)
    ]
    world.store.put_bytes("data/pairs.jsonl", "\n".join(map(json.dumps, lines)).encode())

    def pairs(job: str) -> StartAttemptResponse:
        work = world.work(
            job, epochs=20, batch_size=4, method="preference", preference=Preference(beta=0.2), training_sha256=""
        )
        work.training_key = "data/pairs.jsonl"
        return work

    (whole,) = await run_all(world, pairs("whole"))
    assert "Now computing the reference" in whole.log()
    assert whole.losses()[1] == pytest.approx(0.6931, abs=1e-3)  # the adapter changes nothing yet
    assert completion(whole).tuned_evaluation.loss < 0.3
    assert completion(whole).base_evaluation.loss == pytest.approx(0.6931, abs=1e-3)
    async with serving(world.platform()) as platform, process(platform):
        (first,) = await platform.give(pairs("paused"))
        await platform.until(lambda: len(first.steps()) > 2)
        first.stop = STOP_REQUEST_PAUSE
        await platform.until(lambda: first.over)
        first.stop = STOP_REQUEST_UNSPECIFIED
        (second,) = await platform.give(world.resumed(pairs("paused"), first))
        await platform.until(lambda: second.over)
    assert "Now computing the reference" not in second.log()
    assert {**first.losses(), **second.losses()} == whole.losses()
    assert world.weights("paused", 2) == world.weights("whole")


async def test_a_job_that_stops_early_hands_in_its_best_checkpoint(world: World) -> None:
    settings = {"epochs": 60, "learning_rate": 5e-2, "evaluation_steps": 5, "early_stopping_patience": 3}
    (one,) = await run_all(world, world.work("one", **settings))
    measured = one.valid_losses()
    training = {step: loss for step, loss in measured.items() if step % 5 == 0 and step}
    best = min(training, key=lambda step: training[step])
    assert max(one.steps()) == best + 15 < 300
    assert completion(one).tuned_evaluation.loss == training[best]
    kept = {found.step: found.valid_loss for found in one.checkpoints()}
    assert kept[best] == training[best]
    key = next(found.key for found in one.checkpoints() if found.step == best)
    assert world.store.read_bytes(f"{key}/adapter_model.safetensors") == world.weights("one")


async def test_a_job_starts_from_an_adapter(world: World) -> None:
    (first,) = await run_all(world, world.work("first", epochs=8))
    work = world.work("second", max_steps=1, learning_rate=1e-9)
    work.initial_key = "jobs/first/attempts/1/adapter"
    (second,) = await run_all(world, work)
    assert second.losses()[1] < first.losses()[1] - 0.1
    reached = completion(first).tuned_evaluation.loss
    assert completion(second).tuned_evaluation.loss == pytest.approx(reached, abs=1e-5)
    assert completion(second).base_evaluation == completion(first).base_evaluation
