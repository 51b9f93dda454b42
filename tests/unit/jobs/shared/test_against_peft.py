"""Fifty steps of the shared trainer beside neighbours, against plain peft and torch's AdamW."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load
from tests.shared_trainer_rig import LocalTrainer, World, serving
from torch.nn import functional

from trellis.spec import Lora, Preference, TrainSpec
from trellis.tokens import ChatTokenizer
from trellis.v1.worker_pb2 import StartAttemptResponse
from trellis_jobs.device import Device
from trellis_jobs.methods.open import Data, read_items
from trellis_jobs.model import load_base, open_base
from trellis_jobs.schedule import learning_rate
from trellis_jobs.shared.weights import fresh_weights, named_tensors

SETTINGS: dict[str, Any] = {
    "epochs": 100,
    "max_steps": 50,
    "batch_size": 6,
    "lora": Lora(rank=4, alpha=8.0),
    "weight_decay": 0.01,
    "max_grad_norm": 0.5,
}
LossOf = Callable[[Any, Data, list[int]], torch.Tensor]


def logarithms(model: Any, row: Any) -> torch.Tensor:
    """Of the probabilities of a sequence's trained tokens, times their weights."""
    logits_TV = model(input_ids=row.ids_T[None]).logits[0, :-1]
    chosen_T = functional.log_softmax(logits_TV, -1).gather(1, row.ids_T[1:, None])[:, 0]
    return chosen_T * row.weights_T[1:]


def supervised_loss(model: Any, data: Data, batch: list[int]) -> torch.Tensor:
    rows = [data.train.rows(index)[0] for index in batch]
    total = sum(-logarithms(model, row).sum() for row in rows)
    return total / sum(float(row.weights_T[1:].sum()) for row in rows)


def preference_loss(model: Any, data: Data, batch: list[int]) -> torch.Tensor:
    losses = []
    for index in batch:
        gained = []
        for row in data.train.rows(index):
            with torch.no_grad(), model.disable_adapter():
                reference = logarithms(model, row).sum()
            gained.append(logarithms(model, row).sum() - reference)
        losses.append(-functional.logsigmoid(0.1 * (gained[0] - gained[1])))
    return torch.stack(losses).mean()


def train_with_peft(world: World, work: StartAttemptResponse, loss_of: LossOf) -> tuple[list[float], dict[str, Any]]:
    """Losses by step, and the weights in the end."""
    spec = TrainSpec.from_json(work.train_spec_json)
    base = open_base(spec)
    data = read_items(world.store, spec, work, ChatTokenizer.load(base.facts.path))
    model: Any = get_peft_model(
        load_base(base.facts, Device(torch.device("cpu"), torch.float32)),  # type: ignore[arg-type]
        LoraConfig(r=4, lora_alpha=8, target_modules=list(base.facts.linear_names), task_type="CAUSAL_LM"),
    )
    start = named_tensors(fresh_weights(spec, base.facts, base.facts.linear_names))
    parameters = {name.replace(".default", ""): p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in parameters.items():
        # As PEFT draws them: B zero, A uniform within the same bounds.
        bound = 1 / math.sqrt(parameter.shape[1]) if "lora_A" in name else 0.0
        for drawn in (start[name], parameter.detach()):
            assert 0.8 * bound <= float(drawn.abs().max()) <= bound
        parameter.data.copy_(start[name])
    optimizer = torch.optim.AdamW(parameters.values(), weight_decay=spec.weight_decay)
    plan, losses = data.plan(spec), []
    for step in range(plan.total_steps):
        loss = loss_of(model, data, plan.batch(step))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters.values(), spec.max_grad_norm)
        optimizer.param_groups[0]["lr"] = learning_rate(spec, step, plan.total_steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses, parameters


async def train_shared(world: World, work: StartAttemptResponse) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same beside two others."""
    async with serving(world.platform()) as platform:
        attempts = await LocalTrainer(platform).run(
            world.work("beside", lora=Lora(rank=9), max_steps=30, seed=4), work, world.work("third", max_steps=20)
        )
    assert attempts[1].failed is None
    key = attempts[1].checkpoints()[-1].key
    return list(attempts[1].losses().values()), load(world.store.read_bytes(f"{key}/adapter_model.safetensors"))


async def compare(world: World, work: StartAttemptResponse, loss_of: LossOf) -> None:
    losses, weights = await train_shared(world, work)
    expected, parameters = train_with_peft(world, work, loss_of)
    assert len(losses) == 50
    assert losses[-1] < losses[0]
    assert losses == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert weights.keys() == parameters.keys()
    for name, parameter in parameters.items():
        torch.testing.assert_close(weights[name], parameter.detach(), atol=5e-4, rtol=1e-3)


async def test_supervised_tuning_is_that_of_peft(world: World) -> None:
    await compare(world, world.work("one", **SETTINGS), supervised_loss)


async def test_preference_tuning_is_that_of_peft(world: World) -> None:
    lines = [{"prompt": f"colour {n}? ", "chosen": f"red {n % 3}", "rejected": "grey"} for n in range(20)]
    world.store.put_bytes("data/pairs.jsonl", "\n".join(map(json.dumps, lines)).encode())
    work = world.work("one", **SETTINGS, method="preference", preference=Preference(), training_sha256="")
    work.training_key = "data/pairs.jsonl"
    await compare(world, work, preference_loss)
