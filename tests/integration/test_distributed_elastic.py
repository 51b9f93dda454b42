"""A run of the distributed trainer that goes on with more workers than it began with, or with fewer."""

from dataclasses import dataclass
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load
from tests.distributed_rig import PREFERENCES, World, make_world
from tests.gloo_rig import Told, run_workers

from trellis.spec import Distributed
from trellis.v1.worker_pb2 import StartAttemptResponse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
STEPS: Final = 8
FROM: Final = 4
"""The step whose checkpoint is gone on from: enough steps follow for wrong moments to show."""
_LONG: Final[dict[str, Any]] = {"max_steps": STEPS, "epochs": 10, "checkpoint_steps": FROM, "weight_decay": 0.1}
_FULL: Final[dict[str, Any]] = {**_LONG, "full": True, "learning_rate": 3e-3}
KINDS: Final[dict[str, tuple[int, dict[str, Any]]]] = {
    "full-2": (2, _FULL),
    "full-3": (3, _FULL),
    "adapter-3": (3, {**_LONG, "gradient_accumulation_steps": 2}),
    "preference-2": (2, {**_LONG, "method": "preference", "training_sha256": "", "learning_rate": 3e-3}),
}
"""The ZeRO stage, and other settings, by name."""
each_way = pytest.mark.parametrize(("old", "new"), [(1, 2), (2, 1)])
each_kind = pytest.mark.parametrize("kind", KINDS)


@dataclass(frozen=True)
class Runs:
    """What was told by runs that were never stopped and by those that go on from them, by kind and first workers."""

    world: World
    whole: dict[tuple[str, int], Told]
    further: dict[tuple[str, int], Told]


def _first(world: World, workers: int) -> dict[str, StartAttemptResponse]:
    return {f"{kind}-{workers}": _work(world, kind, workers, f"{kind}-{workers}") for kind in KINDS}


def _work(world: World, kind: str, workers: int, job: str) -> StartAttemptResponse:
    stage, settings = KINDS[kind]
    work = world.work(Distributed(workers=workers, zero_stage=stage), job, **settings)
    if settings.get("method") == "preference":
        work.training_key = PREFERENCES  # against a reference, which the checkpoint keeps
    return work


def _second(world: World, workers: int, first: dict[str, Told]) -> dict[str, StartAttemptResponse]:
    """The same jobs' second attempts, on another number of workers."""
    found = {}
    for job, told in first.items():
        work = _work(world, job.rpartition("-")[0], workers, job)
        (kept,) = (one for one in told.checkpoints() if one.step == FROM)
        work.attempt, work.resume_key, work.resume_step = 2, kept.key, kept.step
        work.adapter_prefix = f"jobs/{job}/attempts/2/adapter"
        found[f"{job}-further"] = work
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All of it in three groups of processes: one worker, two, and one again."""
    world = make_world(tmp_path_factory.mktemp("world"))
    ones = run_workers(1, _first(world, 1))
    two = run_workers(2, {**(works := _first(world, 2)), **_second(world, 2, ones)})
    back = run_workers(1, _second(world, 1, {job: two[job] for job in works}))
    told = {**ones, **two, **back}
    both = [(kind, workers) for kind in KINDS for workers in (1, 2)]
    whole = {(kind, workers): told[f"{kind}-{workers}"] for kind, workers in both}
    return Runs(world, whole, {(kind, workers): told[f"{kind}-{workers}-further"] for kind, workers in both})


@each_kind
@each_way
def test_losses_go_on_as_if_nothing_had_happened(runs: Runs, kind: str, old: int, new: int) -> None:
    further = runs.further[kind, old]
    assert any(f"on each of {new} workers" in event for event in further.events())
    assert f"Training goes on from the checkpoint of step {FROM}." in further.events()
    for workers in (old, new):
        whole = runs.whole[kind, workers]
        wanted = {step: loss for step, loss in whole.losses().items() if step > FROM}
        assert len(wanted) == STEPS - FROM
        assert further.losses() == pytest.approx(wanted, rel=2e-4)
        assert further.finished["tuned"].loss == pytest.approx(whole.finished["tuned"].loss, rel=2e-4)
        assert further.finished["trained_tokens"] == whole.finished["trained_tokens"]
    # The base is not evaluated again: the first attempt did, and its checkpoint says what came out.
    assert further.finished["base"] == runs.whole[kind, old].finished["base"]


def _weights(world: World, told: Told) -> dict[str, torch.Tensor]:
    """Weights and moments of the last checkpoint."""
    newest = told.checkpoints()[-1]
    assert newest.step == STEPS
    keys = [
        one.key for one in world.store.list(f"{newest.key}/model") if not one.key.endswith("/reference.safetensors")
    ]
    return {name: value for key in keys for name, value in load(world.store.read_bytes(key)).items()}


@each_kind
@each_way
def test_what_is_trained_in_the_end_is_the_same(runs: Runs, kind: str, old: int, new: int) -> None:
    found = _weights(runs.world, runs.further[kind, old])
    whole = _weights(runs.world, runs.whole[kind, new])
    assert found.keys() == whole.keys()
    assert sum(name.endswith(".exp_avg_sq") for name in found) * 3 == len(found) > 30
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value, rtol=1e-2, atol=5e-4, msg=name)
