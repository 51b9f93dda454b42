"""The distributed trainer's workers, two processes of gloo against one, and against a plain loop of peft and torch."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tests.distributed_rig import PREFERENCES, World, make_world
from tests.gloo_rig import Told, run_workers
from torch.nn import functional
from transformers import AutoModelForCausalLM

from trellis.artifacts import Manifest, check_adapter_folder
from trellis.bases import read_base
from trellis.errors import Reason
from trellis.exports import check_contents, read_manifest
from trellis.spec import Distributed, Lora
from trellis.tokens import ChatTokenizer
from trellis.v1.worker_pb2 import END_CAUSE_USER, STOP_REQUEST_PAUSE, StartAttemptResponse
from trellis_jobs.methods.open import read_items
from trellis_jobs.schedule import learning_rate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
FULL = {"full": True, "learning_rate": 1e-3, "checkpoint_steps": 3, "weight_decay": 0.1}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def pairs(world: World) -> dict[str, Told]:
    """All that two workers do, in two processes that are started once."""
    three = Distributed(workers=2, zero_stage=3)
    again = replace(three, gradient_checkpointing=True)
    everything, moved = replace(again, offload="all"), replace(again, zero_stage=2, offload="optimizer")
    bf16 = {"precision": "bf16", "lora": Lora(rank=3, alpha=6.0), "max_steps": 4}
    stopping = {"evaluation_steps": 1, "early_stopping_patience": 2, "max_steps": 12, "learning_rate": 0.3}
    works = {
        "two": world.work(Distributed(workers=2, zero_stage=2), "two", **FULL),
        "three": world.work(again, "three", **FULL, gradient_accumulation_steps=2),
        "adapter": world.work(three, "adapter"),
        "paused": world.work(three, "elastic", **FULL),
        "paused adapter": world.work(three, "elastic-adapter"),
        "preferences": preference_work(world, 2, "dpo2"),
        "everything": world.work(everything, "everything", **bf16),
        "moved": world.work(moved, "moved", **bf16),
        "best": world.work(three, "best", **stopping),
        "further": world.work(three, "further", max_steps=1),
        "unmeasured": world.work(three, "unmeasured", max_steps=1, held_out_fraction=0.0),
    }
    works["further"].initial_key = "jobs/best/attempts/1/adapter"
    return run_workers(2, works, dict.fromkeys(("paused", "paused adapter"), (STOP_REQUEST_PAUSE, 1)))


@pytest.fixture(scope="module")
def ones(world: World, pairs: dict[str, Told]) -> dict[str, Told]:
    """The same on one worker, which the others are held to; the last one fails."""
    one = Distributed(workers=1, zero_stage=1)
    two = replace(one, zero_stage=2)
    works = {
        "alone": world.work(one, "alone", **FULL),
        "resumed": resumed(world.work(two, "elastic", **FULL), pairs["paused"]),
        "resumed adapter": resumed(world.work(one, "elastic-adapter"), pairs["paused adapter"]),
        "preferences": preference_work(world, 1, "dpo1"),
        "broken": world.work(one, "broken", learning_rate=1e30, full=True, max_grad_norm=1e6),
    }
    return run_workers(1, works)


def resumed(work: StartAttemptResponse, before: Told) -> StartAttemptResponse:
    newest = before.checkpoints()[-1]
    work.attempt, work.resume_key, work.resume_step = 2, newest.key, newest.step
    return work


def preference_work(world: World, workers: int, job: str) -> StartAttemptResponse:
    spread = Distributed(workers=workers, zero_stage=2)
    work = world.work(spread, job, method="preference", training_sha256="", max_steps=4, learning_rate=3e-3)
    work.training_key = PREFERENCES
    return work


def test_two_workers_give_the_losses_of_one(ones: dict[str, Told], pairs: dict[str, Told]) -> None:
    alone, two, three = ones["alone"], pairs["two"], pairs["three"]
    assert sorted(alone.losses()) == list(range(1, 7))
    assert alone.losses()[6] < alone.losses()[1]
    assert two.losses() == pytest.approx(alone.losses(), rel=1e-4)
    assert three.losses() == pytest.approx(alone.losses(), rel=1e-4)
    for told in (two, three):
        assert told.finished["tuned"].loss == pytest.approx(alone.finished["tuned"].loss, rel=1e-4)
        assert told.finished["base"].line_count == 4
        assert told.finished["trained_tokens"] == alone.finished["trained_tokens"]
        points = [value for value in told.all("metrics") if value["step"] and "valid_loss" in value["values"]]
        measured = {value["step"]: value["values"]["valid_loss"] for value in points}
        best = min(measured, key=lambda step: measured[step])
        assert {one.valid_loss for one in told.checkpoints() if one.step == best} == {measured[best]}
    norms = [
        [v["values"]["gradient_norm"] for v in t.all("metrics") if "gradient_norm" in v["values"]] for t in (two, three)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert any("ZeRO-3, activations computed again: 26,976 parameters" in event for event in three.events())


def test_all_weights_come_out_as_one_model(
    world: World, pairs: dict[str, Told], ones: dict[str, Told], tmp_path: Path
) -> None:
    digest, alone = pairs["three"].finished["model_digest"], ones["alone"]
    prefix = "jobs/three/model"
    manifest = read_manifest(world.store, prefix, digest)
    check_contents(world.store, prefix, manifest)
    assert manifest.tuning_job == "tenants/acme/tuningJobs/three"
    for name in manifest.files:
        world.store.get_file(f"{prefix}/{name}", tmp_path / "model" / name)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    assert ChatTokenizer.load(tmp_path / "model").digest == world.spec.tokenizer_digest
    for name in read_manifest(world.store, "jobs/alone/model", alone.finished["model_digest"]).files:
        world.store.get_file(f"jobs/alone/model/{name}", tmp_path / "alone" / name)
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "alone", dtype="auto").state_dict()
    assert model.dtype is torch.float32
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, other[name], rtol=1e-3, atol=1e-4)


def test_a_run_goes_on_with_another_number_of_workers(ones: dict[str, Told], pairs: dict[str, Told]) -> None:
    paused, resumed, alone = pairs["paused"], ones["resumed"], ones["alone"]
    assert not paused.all("finished")
    newest = paused.checkpoints()[-1]
    assert newest.step == max(paused.losses()) < 6
    assert min(resumed.losses()) == newest.step + 1
    assert {**paused.losses(), **resumed.losses()} == pytest.approx(alone.losses(), rel=1e-4)
    assert resumed.finished["tuned"].loss == pytest.approx(alone.finished["tuned"].loss, rel=1e-4)
    first, second, whole = pairs["paused adapter"], ones["resumed adapter"], pairs["adapter"]
    assert 0 < max(first.losses()) < min(second.losses()) == max(first.losses()) + 1
    assert {**first.losses(), **second.losses()} == pytest.approx(whole.losses(), rel=1e-4)
    assert second.finished["adapter_digest"]
    # The base is not evaluated again: the first attempt did.
    assert resumed.finished["base"].loss == pytest.approx(alone.finished["base"].loss, rel=1e-5)
    assert not any(event.startswith("The base") for event in resumed.events())


def plain_peft(world: World) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Line by line, all logits, no padding, one process: as simple as it can be said."""
    spec = world.spec
    tokenizer = ChatTokenizer.load(Path(spec.base_source))
    data = read_items(world.store, spec, world.work(Distributed(), "plain"), tokenizer)
    plain = AutoModelForCausalLM.from_pretrained(spec.base_source, dtype=torch.float32)
    torch.manual_seed(spec.seed)
    targets = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    model: Any = get_peft_model(plain, LoraConfig(r=4, lora_alpha=8, target_modules=targets))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), weight_decay=spec.weight_decay)
    steps, losses = data.plan(spec), []
    for step in range(steps.total_steps):
        rows = [row for item in steps.batch(step) for row in data.train.rows(item)]
        weight = sum(float(row.weights_T.sum()) for row in rows)
        loss = torch.zeros(())
        for row in rows:
            logits_TV = model(row.ids_T[None]).logits[0, :-1]
            token_losses_T = functional.cross_entropy(logits_TV, row.ids_T[1:], reduction="none")
            loss = loss + (token_losses_T * row.weights_T[1:]).sum() / weight
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), spec.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(spec, step, steps.total_steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses, {name.replace(".default.", "."): p.detach() for name, p in trained.items()}


def test_an_adapter_on_a_sharded_base_is_the_one_of_plain_peft(
    world: World, pairs: dict[str, Told], tmp_path: Path
) -> None:
    told = pairs["adapter"]
    losses, weights = plain_peft(world)
    assert list(told.losses().values()) == pytest.approx(losses, rel=2e-4)
    prefix = "jobs/adapter/attempts/1/adapter"
    manifest = Manifest.from_json(world.store.read_bytes(f"{prefix}/manifest.json"))
    assert manifest.digest == told.finished["adapter_digest"]
    for name in manifest.files:
        world.store.get_file(f"{prefix}/{name}", tmp_path / name)
    found = load_file(tmp_path / "adapter_model.safetensors")
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-2, atol=1e-3)
    # Each checkpoint has the adapter as a PEFT folder too, which passes the same gate.
    newest = told.checkpoints()[-1]
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        world.store.get_file(f"{newest.key}/{name}", tmp_path / "checkpoint" / name)
    assert check_adapter_folder(tmp_path / "checkpoint", read_base(world.spec.base_source)).rank == 4


def test_bf16_offloaded_and_computed_again(pairs: dict[str, Told]) -> None:
    first, second = pairs["everything"], pairs["moved"]
    assert first.finished["adapter_digest"]
    assert first.losses()[4] < first.losses()[1]
    assert second.losses() == pytest.approx(first.losses(), rel=2e-2)
    assert "all state on the host" in first.events()[1]


def test_divergence_ends_a_run_with_its_lines(ones: dict[str, Told]) -> None:
    (failure,) = ones["broken"].failures
    assert failure.reason == Reason.TRAINING_DIVERGED, failure
    assert failure.cause == END_CAUSE_USER
    assert "It learnt from lines" in failure.message


def test_preferences_are_learnt_against_the_model_that_training_starts_from(
    ones: dict[str, Told], pairs: dict[str, Told]
) -> None:
    one, two = ones["preferences"], pairs["preferences"]
    assert one.losses()[1] == pytest.approx(math.log(2), rel=1e-5)  # model and reference are the same yet
    assert one.losses()[4] < one.losses()[1]
    assert two.losses() == pytest.approx(one.losses(), rel=1e-4)
    assert one.all("metrics")[-1]["values"]["valid_loss"] == pytest.approx(one.finished["tuned"].loss)


def test_an_adapter_to_start_from_and_the_best_checkpoint(pairs: dict[str, Told]) -> None:
    best, further = pairs["best"], pairs["further"]
    found = [v["values"]["valid_loss"] for v in best.all("metrics") if "valid_loss" in v["values"]]
    assert best.finished["tuned"].loss == pytest.approx(min(found[1:]), rel=1e-5)
    assert best.finished["tuned"].loss < found[-2]
    assert any("training ends early" in event for event in best.events())
    # The second job starts from there, and is still compared with the base alone.
    assert further.finished["base"].loss == pytest.approx(best.finished["base"].loss, rel=1e-5)
    assert further.losses()[1] < best.losses()[1]


def test_nothing_is_said_of_lines_that_are_not_held_out(pairs: dict[str, Told]) -> None:
    told = pairs["unmeasured"]
    assert told.finished["adapter_digest"]
    assert told.finished["tuned"].line_count == 0
    assert not any("held-out" in event for event in told.events())


@pytest.mark.gpu
def test_an_adapter_on_a_4_bit_base(world: World) -> None:
    pytest.importorskip("bitsandbytes")
    one = Distributed(workers=1)
    work = world.work(one, "nf4", quantization="nf4", precision="bf16", max_steps=20)
    told = run_workers(1, {"nf4": work}, on_gpu=True)["nf4"]
    assert told.finished["adapter_digest"]
    assert told.losses()[20] < told.losses()[1]
