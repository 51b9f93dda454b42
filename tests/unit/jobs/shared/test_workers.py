"""A trainer of two processes gives what one does, and sends nothing of slots that had no part."""

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.shared_trainer_rig import LocalTrainer, World, make_world, serving
from torch import distributed

from trellis.bases import read_base
from trellis.local.ports import free_ports
from trellis.lora import HostAdapter, LoraPair, LoraWeights
from trellis.spec import Lora
from trellis.v1.worker_pb2 import END_CAUSE_OUT_OF_MEMORY
from trellis_jobs.device import Device
from trellis_jobs.model import load_base
from trellis_jobs.shared.fused import FusedModel
from trellis_jobs.shared.workers import Command, Leader, TeamLostError, follow, join_team

ROWS, SLOTS = 64, 8
WORKS: dict[str, dict[str, Any]] = {
    "one": {"max_steps": 12, "batch_size": 12, "gradient_accumulation_steps": 4, "evaluation_steps": 5},
    "two": {"max_steps": 8, "batch_size": 4, "lora": Lora(rank=12, dropout=0.1), "seed": 3},
    "three": {"max_steps": 8, "batch_size": 4, "lora": Lora(rank=3), "seed": 4},
}
pytestmark = pytest.mark.timeout(240)


def run_follower(address: str, folder: str) -> None:
    torch.set_num_threads(1)
    join_team(address, 1, 2)
    facts, device = read_base(folder), Device(torch.device("cpu"), torch.float32)
    model: Any = load_base(facts, device)
    follow(FusedModel(model, facts, device, rank_rows=ROWS, max_slots=SLOTS))


@pytest.fixture
def world(base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("TRELLIS_TRAINER_RANK_ROWS", str(ROWS))
    return make_world(base_folder, tmp_path / "store")


@pytest.fixture
def team(base_folder: Path) -> Iterator[multiprocessing.process.BaseProcess]:
    """This process as the leader of two."""
    (port,) = free_ports(1)
    address = f"tcp://127.0.0.1:{port}"
    context = multiprocessing.get_context("spawn")
    follower = context.Process(target=run_follower, args=(address, str(base_folder)), daemon=True)
    follower.start()
    join_team(address, 0, 2)
    yield follower
    distributed.destroy_process_group()
    follower.kill()
    follower.join()


class Watched(Leader):
    """Remembers what it told the others."""

    def __init__(self, fused: FusedModel) -> None:
        self.told: list[Command] = []
        super().__init__(fused)

    def _tell(self, command: Command) -> None:
        self.told.append(command)
        super()._tell(command)


async def run(world: World, engine_of: Any, **works: dict[str, Any]) -> tuple[list[Any], LocalTrainer]:
    async with serving(world.platform()) as platform:
        local = LocalTrainer(platform, engine_of)
        attempts = await local.run(*(world.work(job, **changes) for job, changes in works.items()))
    return attempts, local


async def test_two_processes_give_what_one_does(world: World, team: multiprocessing.process.BaseProcess) -> None:
    alone, _ = await run(world, None, **WORKS)
    leaders: list[Watched] = []

    def lead(fused: FusedModel) -> Watched:
        leaders.append(Watched(fused))
        return leaders[0]

    spread, _ = await run(world, lead, **WORKS)
    for one, other in zip(alone, spread, strict=True):
        assert other.completed is not None
        assert other.steps() == one.steps()
        assert list(other.losses().values()) == pytest.approx(list(one.losses().values()), rel=1e-4)
        assert other.valid_losses() == pytest.approx(one.valid_losses(), rel=1e-4)
    (leader,) = leaders
    verbs = [command.verb for command in leader.told]
    steps = sum(len(attempt.steps()) for attempt in spread)
    assert verbs.count("broadcast") == steps
    # A job of one chunk a batch is summed up only if the other process has it; one of four chunks always.
    assert len(spread[0].steps()) <= verbs.count("reduce") < steps + 1
    leader.close()
    team.join(30)
    assert team.exitcode == 0


async def test_trouble_in_one_process_is_the_jobs_that_has_it(
    world: World, team: multiprocessing.process.BaseProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = FusedModel.losses

    def scarce(self: FusedModel, chunks: Any) -> Any:
        if torch.is_grad_enabled() and any(chunk.dropout > 0.2 for chunk in chunks):
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(self, chunks)

    def lead(fused: FusedModel) -> Leader:
        monkeypatch.setattr(FusedModel, "losses", scarce)
        return Leader(fused)

    (one, two), _ = await run(
        world, lead, one=WORKS["one"], two={"lora": Lora(rank=4, dropout=0.5), "gradient_accumulation_steps": 8}
    )
    assert one.completed is not None
    assert two.failed is not None
    assert two.failed.cause == END_CAUSE_OUT_OF_MEMORY


def test_a_worker_that_dies_takes_the_trainer_with_it(
    base_folder: Path, team: multiprocessing.process.BaseProcess
) -> None:
    facts, device = read_base(str(base_folder)), Device(torch.device("cpu"), torch.float32)
    model: Any = load_base(facts, device)
    fused = FusedModel(model, facts, device, rank_rows=ROWS, max_slots=SLOTS)
    leader, weights = Leader(fused), random_weights_of(fused)
    slot = fused.bank.add(HostAdapter.pack(weights, [bank.group for bank in fused.bank.groups.values()], torch.float32))
    leader.added(slot, weights)
    leader.publish(slot)
    team.kill()
    team.join()
    with pytest.raises(TeamLostError) as raised:
        for _ in range(3):  # the first words may still find their way into a buffer
            leader.publish(slot)
            leader.collect(slot)
            leader.compute([], gradient=False)
    assert raised.value.code == 1


def random_weights_of(fused: FusedModel) -> LoraWeights:
    group = next(iter(fused.bank.groups.values())).group
    pair = LoraPair(torch.ones(8, group.in_features), torch.ones(group.out_features[0], 8), 1.0)
    return LoraWeights("", {group.parts[0]: pair})
