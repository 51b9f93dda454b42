"""What jobs are charged for passes that they share: its seconds by their tokens, and no more seconds than there were."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.shared_trainer_rig import LocalTrainer, World, make_world, serving
from tests.tiny_llama import write_tiny_llama

from trellis_jobs.examples import Row
from trellis_jobs.shared.chunk import Chunk
from trellis_jobs.shared.packer import Pass
from trellis_jobs.shared.work import Lane, Piece


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("TRELLIS_TRAINER_RANK_ROWS", "64")
    return make_world(write_tiny_llama(tmp_path / "base"), tmp_path / "store")


@dataclass
class Charged:
    """A job and its attempt, as far as they are charged."""

    seconds: float = 0.0

    @property
    def attempt(self) -> "Charged":
        return self

    def use(self, *, seconds: float) -> None:
        self.seconds += seconds


async def test_a_pass_is_shared_out_by_tokens_to_the_last_second(world: World) -> None:
    async with serving(world.platform()) as platform:
        trainer = LocalTrainer(platform).trainer
    row = Row(torch.ones(11, dtype=torch.int64), torch.ones(11))
    lanes = [Lane(_nothing()) for _ in range(2)]
    few, many = (Piece(Chunk((row,) * count, None), lambda _: (None, None)) for count in (1, 3))
    owners: dict[Any, Any] = {lane: Charged() for lane in lanes}
    trainer._account(Pass(((lanes[0], few), (lanes[1], many), (lanes[1], many)), gradient=True), owners, 14.0)
    assert [owners[lane].seconds for lane in lanes] == pytest.approx([2.0, 12.0])
    assert [lane.served for lane in lanes] == [10, 60]
    assert trainer.tokens_per_second == pytest.approx(5.0)


async def test_nobody_is_charged_for_what_was_done_for_another(world: World) -> None:
    async with serving(world.platform()) as platform:
        local = LocalTrainer(platform)
        began = time.monotonic()
        attempts = await local.run(
            world.work("one", max_steps=6, batch_size=12), world.work("two", max_steps=6, batch_size=3)
        )
        elapsed = time.monotonic() - began
    charged = [attempt.completed.usage.trainer_seconds for attempt in attempts if attempt.completed]
    assert charged[0] > charged[1] > 0
    assert sum(charged) < elapsed


def _nothing() -> Any:
    yield from ()
