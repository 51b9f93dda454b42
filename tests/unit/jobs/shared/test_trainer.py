"""The trainer's loop: passes that fail, and what jobs are charged."""

import math
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from tests.shared_trainer_rig import LocalTrainer, World, serving

from trellis.spec import Lora
from trellis.v1.worker_pb2 import (
    END_CAUSE_OUT_OF_MEMORY,
    END_CAUSE_PAUSED,
    END_CAUSE_USER,
    STOP_REQUEST_PAUSE,
)
from trellis_jobs.shared import trainer
from trellis_jobs.shared.chunk import Chunk
from trellis_jobs.shared.fused import FusedModel
from trellis_jobs.shared.pass_budget import PassBudget
from trellis_jobs.shared.tenant import Tenant

WORKS = {"one": {"max_steps": 6}, "two": {"max_steps": 4, "lora": Lora(rank=12), "seed": 1}}


async def expected(world: World, **works: dict[str, Any]) -> tuple[list[dict[int, float]], list[bytes]]:
    """Losses and weights where nothing goes wrong."""
    async with serving(world.platform()) as platform:
        attempts = await LocalTrainer(platform).run(*(world.work(job, **changes) for job, changes in works.items()))
    return [attempt.losses() for attempt in attempts], [world.weights(job) for job in works]


async def test_a_pass_that_ran_out_of_memory_is_replayed_in_smaller_ones(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, weights = await expected(world, **WORKS)
    backward, failures = FusedModel.backward, []

    def scarce(self: FusedModel, losses: Sequence[torch.Tensor]) -> None:
        if len(losses) > 1:
            backward(self, losses[:1])  # a part of the gradients is in the bank already
            failures.append(len(losses))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        backward(self, losses)

    monkeypatch.setattr(FusedModel, "backward", scarce)
    async with serving(world.platform()) as platform:
        attempts = await LocalTrainer(platform).run(*(world.work(job, **changes) for job, changes in WORKS.items()))
    assert failures
    assert [attempt.losses() for attempt in attempts] == losses
    assert [world.weights(job) for job in WORKS] == weights


async def test_passes_grow_again_when_there_is_memory_and_the_bits_stay(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, weights = await expected(world, **WORKS)
    backward = FusedModel.backward
    failed: list[int] = []
    since: list[int] = []

    def scarce(self: FusedModel, losses: Sequence[torch.Tensor]) -> None:
        if len(losses) > 1 and not failed:
            failed.append(len(losses))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        backward(self, losses)
        if failed:
            since.append(len(losses))

    monkeypatch.setattr(FusedModel, "backward", scarce)
    monkeypatch.setattr(trainer, "PassBudget", partial(PassBudget, patience=1))
    async with serving(world.platform()) as platform:
        attempts = await LocalTrainer(platform).run(*(world.work(job, **changes) for job, changes in WORKS.items()))
    assert len(failed) == 1
    assert since[0] < failed[0]
    assert max(since) >= failed[0], "they stayed small"
    assert [attempt.losses() for attempt in attempts] == losses
    assert [world.weights(job) for job in WORKS] == weights


async def test_a_chunk_that_does_not_fit_by_itself_fails_its_job_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, _ = await expected(world, one=WORKS["one"])
    forward = FusedModel.losses

    def scarce(self: FusedModel, chunks: Sequence[Chunk]) -> Any:
        if torch.is_grad_enabled() and any(chunk.dropout > 0.2 for chunk in chunks):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, chunks)

    monkeypatch.setattr(FusedModel, "losses", scarce)
    async with serving(world.platform()) as platform:
        one, two = await LocalTrainer(platform).run(
            world.work("one", **WORKS["one"]), world.work("two", lora=Lora(rank=4, dropout=0.5))
        )
    assert one.losses() == losses[0]
    assert one.completed is not None
    assert two.failed is not None
    assert two.failed.cause == END_CAUSE_OUT_OF_MEMORY


async def test_an_error_that_nobody_foresaw_ends_only_the_job_that_has_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, weights = await expected(world, one=WORKS["one"])
    forward = FusedModel.losses

    def broken(self: FusedModel, chunks: Sequence[Chunk]) -> Any:
        if torch.is_grad_enabled() and any(chunk.dropout > 0.2 for chunk in chunks):
            raise KeyError("odd")
        return forward(self, chunks)

    monkeypatch.setattr(FusedModel, "losses", broken)
    async with serving(world.platform()) as platform:
        one, two = await LocalTrainer(platform).run(
            world.work("one", **WORKS["one"]), world.work("two", lora=Lora(rank=4, dropout=0.5))
        )
    assert (one.losses(), world.weights("one")) == (losses[0], weights[0])
    assert two.failed is not None
    assert two.failed.cause == END_CAUSE_USER
    assert "KeyError" in two.failed.error.message


async def test_memory_halvings_make_smaller_chunks_and_the_same_losses(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, _ = await expected(world, one={**WORKS["one"], "lora": Lora(rank=4)})
    sizes: list[int] = []
    forward = FusedModel.losses

    def watched(self: FusedModel, chunks: Sequence[Chunk]) -> Any:
        sizes.extend(len(chunk.rows) for chunk in chunks if torch.is_grad_enabled())
        return forward(self, chunks)

    async with serving(world.platform()) as platform:
        local = LocalTrainer(platform)
        monkeypatch.setattr(FusedModel, "losses", watched)
        work = world.work("one", **{**WORKS["one"], "lora": Lora(rank=4)})
        work.memory_halvings = 4
        (one,) = await local.run(work)
    assert set(sizes) == {1}
    assert one.losses() == pytest.approx(losses[0], rel=1e-4)


async def test_jobs_share_the_seconds_of_their_passes_by_tokens(world: World) -> None:
    async with serving(world.platform()) as platform:
        local = LocalTrainer(platform)
        one, two = await local.run(
            world.work("one", max_steps=8, batch_size=12, held_out_fraction=0.0),
            world.work("two", max_steps=8, batch_size=3, held_out_fraction=0.0),
        )
        assert local.room.to_proto().jobs == 8
    assert one.completed is not None
    assert two.completed is not None
    many, few = one.completed.usage, two.completed.usage
    assert many.trained_tokens > 3 * few.trained_tokens
    assert many.trainer_seconds > few.trainer_seconds > 0
    assert [said for said in one.events() if "held" in said] == [
        "Training on 40 lines; none is held out, so that nothing is evaluated."
    ]
    assert one.completed.tuned_evaluation.line_count == 0


async def test_a_job_that_was_stopped_before_a_measurement_measures_when_it_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {
        "epochs": 60,
        "learning_rate": 5e-2,
        "evaluation_steps": 2,
        "early_stopping_patience": 2,
    }
    async with serving(world.platform()) as platform:
        (whole,) = await LocalTrainer(platform).run(world.work("whole", **settings))
    last = max(whole.steps())
    assert last < 300, "it was to lose its patience"
    measure = Tenant._measure_held_out

    def interrupted(self: Tenant) -> Any:
        if self.attempt.number == 1 and self.totals.step == last:
            self.attempt.reporter.stop = STOP_REQUEST_PAUSE
        return measure(self)

    monkeypatch.setattr(Tenant, "_measure_held_out", interrupted)
    work = world.work("paused", **settings)
    async with serving(world.platform()) as platform:
        (first,) = await LocalTrainer(platform).run(work)
        (second,) = await LocalTrainer(platform).run(world.resumed(work, first))
    assert first.failed is not None
    assert first.failed.cause == END_CAUSE_PAUSED
    assert (first.checkpoints()[-1].step, last in first.valid_losses()) == (last, False)
    assert second.steps() == [], "it went on when its patience was over"
    assert {**first.valid_losses(), **second.valid_losses()} == whole.valid_losses()
    assert second.checkpoints()[-1].valid_loss == whole.checkpoints()[-1].valid_loss is not None
    assert world.weights("paused", 2) == world.weights("whole")


async def test_a_job_that_goes_on_after_a_measurement_does_not_measure_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Tenant._measure_held_out

    def interrupted(self: Tenant) -> Any:
        lowest = yield from measure(self)
        if self.attempt.number == 1 and self.totals.step == 4:
            self.attempt.reporter.stop = STOP_REQUEST_PAUSE
        return lowest

    monkeypatch.setattr(Tenant, "_measure_held_out", interrupted)
    work = world.work("paused", max_steps=6, evaluation_steps=2, checkpoint_steps=4)
    async with serving(world.platform()) as platform:
        (first,) = await LocalTrainer(platform).run(work)
        (second,) = await LocalTrainer(platform).run(world.resumed(work, first))
    assert first.checkpoints()[-1].valid_loss == first.valid_losses()[4]
    assert 4 not in second.valid_losses()
    assert {*first.valid_losses(), *second.valid_losses()} == {0, 2, 4, 6}
    assert second.steps() == [5, 6]


async def test_the_best_weights_so_far_are_a_checkpoint_whatever_the_pace_of_saving(world: World) -> None:
    settings = {"max_steps": 14, "evaluation_steps": 4, "checkpoint_steps": 5}
    async with serving(world.platform()) as platform:
        (one,) = await LocalTrainer(platform).run(world.work("one", **settings))
    assert one.completed is not None
    measured = {step: loss for step, loss in one.valid_losses().items() if step}
    assert list(measured) == [4, 8, 12, 14]
    saved = {found.step: found.valid_loss for found in one.checkpoints() if found.HasField("valid_loss")}
    lowest = [step for step, loss in measured.items() if loss == min(list(measured.values())[: _place(measured, step)])]
    assert list(saved) == sorted({*lowest, 14})
    assert saved == {step: measured[step] for step in saved}
    assert {5, 10} <= {found.step for found in one.checkpoints()}
    assert measured[14] == one.completed.tuned_evaluation.loss
    said = [(point.step, name) for point in one.points() for name in point.values]
    assert len(said) == len(set(said)), "nothing of a step is told twice"


def _place(measured: dict[int, float], step: int) -> int:
    return list(measured).index(step) + 1


async def test_held_out_lines_without_a_finite_loss_end_the_job_with_a_sentence(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = FusedModel.losses

    def broken(self: FusedModel, chunks: Sequence[Chunk]) -> Any:
        found = forward(self, chunks)
        if torch.is_grad_enabled() or chunks[0].slot is None:
            return found
        return [replace(losses, losses_N=losses.losses_N * math.inf) for losses in found]

    async with serving(world.platform()) as platform:
        local = LocalTrainer(platform)
        monkeypatch.setattr(FusedModel, "losses", broken)
        (one,) = await local.run(world.work("one", max_steps=4, evaluation_steps=2))
    assert one.reason() == "TRAINING_DIVERGED"
    assert one.failed is not None
    assert "held-out lines is inf" in one.failed.error.message


async def test_a_trainer_is_watched_only_while_it_runs(world: World) -> None:
    """A watch that outlives it would end the whole process, ten minutes later."""

    def watches() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "watchdog"]

    before = watches()
    async with serving(world.platform()) as platform:
        local = LocalTrainer(platform)
        assert watches() == before
        with local:
            (watch,) = set(watches()) - set(before)
    watch.join(10)
    assert watches() == before
