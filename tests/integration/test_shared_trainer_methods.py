"""Jobs of every method side by side on one shared trainer."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.shared_trainer_rig import World, make_world, run_all
from tests.tiny_llama import chat_line, write_tiny_llama

from trellis.spec import Preference
from trellis.v1.worker_pb2 import END_CAUSE_USER, StartAttemptResponse

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("base"))


@pytest.fixture
def world(base_folder: Path, tmp_path: Path) -> World:
    return make_world(base_folder, tmp_path / "store")


def work(world: World, job: str, lines: list[dict[str, Any]], **changes: object) -> StartAttemptResponse:
    """An attempt of a job on these lines."""
    world.store.put_bytes(f"data/{job}.jsonl", "\n".join(map(json.dumps, lines)).encode())
    made = world.work(job, training_sha256="", epochs=6, **changes)
    made.training_key = f"data/{job}.jsonl"
    return made


async def test_every_method_learns_beside_the_others(world: World) -> None:
    pairs = [{"prompt": f"colour {n}?", "chosen": "red and warm", "rejected": "grey"} for n in range(24)]
    texts = [{"text": f"number {n} is " + "red and warm and " * 8} for n in range(12)]
    replayed = [chat_line(f"who is {n}?", "nobody") for n in range(6)]
    world.store.put_bytes("data/general.jsonl", "\n".join(replayed).encode())

    dpo = work(world, "dpo", pairs, method="preference", preference=Preference(beta=0.2, label_smoothing=0.1))
    orpo = work(world, "orpo", pairs, method="preference", preference=Preference("orpo"))
    pretraining = work(world, "pretraining", texts, method="pretraining")
    replay = world.work("replay", epochs=2, replay_fraction=0.25)
    replay.replay_key = "data/general.jsonl"
    jobs = await run_all(world, dpo, orpo, pretraining, replay)

    for job in jobs:
        assert job.failed is None, job.reason()
        assert job.completed is not None
        assert job.completed.tuned_evaluation.loss < job.completed.base_evaluation.loss
    for job in jobs[:2]:
        last = job.points()[-1].values
        assert last["valid_reward_accuracy"] == 1.0
        assert last["valid_reward_margin"] > 0
        assert job.completed.tuned_evaluation.answered_line_count == 0
    assert jobs[0].losses()[1] == pytest.approx(0.6931, abs=1e-3)  # nothing is preferred yet
    told = jobs[2].events()
    assert any("split into pieces" in event for event in told)
    assert any("6 of the replay dataset are mixed in" in event for event in jobs[3].events())
    assert jobs[3].steps() == list(range(1, 13))  # 36 lines, six of them and two replayed in a batch


async def test_lines_that_a_method_cannot_learn_from_are_the_users_fault(world: World) -> None:
    (job,) = await run_all(world, world.work("wrong", method="preference"))
    assert job.failed is not None
    assert job.failed.cause == END_CAUSE_USER
    assert "no preferences" in job.failed.error.message
