"""The step against a plain loop of peft and torch, and against itself however it is computed."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import AutoModelForCausalLM

from trellis.errors import InvalidArgument, Reason
from trellis.spec import Lora, Precision, TrainSpec
from trellis.v1.worker_pb2 import END_CAUSE_USER
from trellis_jobs.batches import Plan, collate
from trellis_jobs.data import Data
from trellis_jobs.device import Device, choose_device
from trellis_jobs.failure import JobFailedError
from trellis_jobs.loss import LossHead
from trellis_jobs.model import Base, add_adapter, load_base, target_modules
from trellis_jobs.schedule import learning_rate
from trellis_jobs.step import Stepper

MakeSpec = Callable[..., TrainSpec]


def run_steps(spec: TrainSpec, data: Data, base: Base, device: Device, count: int) -> tuple[list[float], Stepper]:
    model = add_adapter(load_base(base.facts, device), spec, base.facts)
    stepper = Stepper(model, spec, data.train, device, base.tokenizer.pad_id)
    plan = Plan.of(spec, len(data.train))
    model.train()
    losses = []
    for step in range(count):
        lines = plan.step_lines(plan.epoch_lines(step // plan.epoch_steps), step)
        losses.append(stepper.step(lines, step, plan.total_steps).loss)
    return losses, stepper


def reference_losses(spec: TrainSpec, data: Data, folder: Path, count: int) -> list[float]:
    """Line by line, all logits, no padding: as simple as it can be said."""
    torch.manual_seed(spec.seed)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    targets = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    torch.manual_seed(spec.seed)
    model: Any = get_peft_model(plain, LoraConfig(r=spec.lora.rank, lora_alpha=8, target_modules=targets))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, weight_decay=spec.weight_decay)
    plan = Plan.of(spec, len(data.train))
    losses = []
    for step in range(count):
        rows = [data.train.row(line) for line in plan.step_lines(plan.epoch_lines(step // plan.epoch_steps), step)]
        weight = sum(float(row.weights_T.sum()) for row in rows)
        loss = torch.zeros(())
        for row in rows:
            logits_TV = model(row.ids_T[None]).logits[0, :-1]
            token_losses_T = functional.cross_entropy(logits_TV, row.ids_T[1:], reduction="none")
            loss = loss + (token_losses_T * row.weights_T[1:]).sum() / weight
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, spec.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(spec, step, plan.total_steps)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_losses_are_those_of_peft_and_torch(
    make_spec: MakeSpec, data: Data, base: Base, device: Device, base_folder: Path
) -> None:
    spec = make_spec(epochs=4, weight_decay=0.1, max_grad_norm=0.5)
    ours, _ = run_steps(spec, data, base, device, 8)
    assert ours == pytest.approx(reference_losses(spec, data, base_folder, 8), rel=2e-4)
    assert ours[-1] < ours[0]


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_accumulation_changes_nothing_but_rounding(
    make_spec: MakeSpec, data: Data, base: Base, device: Device, parts: int
) -> None:
    whole, first = run_steps(make_spec(), data, base, device, 4)
    split, second = run_steps(make_spec(gradient_accumulation_steps=parts), data, base, device, 4)
    assert split == pytest.approx(whole, rel=1e-4)
    for name, parameter in first.parameters.items():
        torch.testing.assert_close(second.parameters[name], parameter, rtol=1e-2, atol=2e-3)


def test_equal_steps_give_equal_bits(make_spec: MakeSpec, data: Data, base: Base, device: Device) -> None:
    spec = make_spec(lora=Lora(rank=4, alpha=8.0, dropout=0.2))
    first, one = run_steps(spec, data, base, device, 4)
    second, two = run_steps(spec, data, base, device, 4)
    assert first == second
    assert all(torch.equal(parameter, two.parameters[name]) for name, parameter in one.parameters.items())
    assert run_steps(replace(spec, seed=1), data, base, device, 4)[0] != first


def test_padding_does_not_touch_a_line(data: Data, base: Base, device: Device) -> None:
    head = LossHead(load_base(base.facts, device), device)
    order = sorted(range(len(data.train)), key=data.train.length)
    lines = [order[0], order[-1]]
    with torch.no_grad():
        together = head(collate(lines, data.train, base.tokenizer.pad_id))
        alone = [head(collate([line], data.train, base.tokenizer.pad_id)) for line in lines]
    torch.testing.assert_close(together.losses_N, torch.cat([found.losses_N for found in alone]), rtol=1e-4, atol=1e-5)
    assert together.weights_N.numel() == together.losses_N.numel()


def test_chunks_and_a_head_that_is_not_the_end_give_the_same(
    data: Data, base: Base, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = load_base(base.facts, device)
    batch = collate([0, 1, 2], data.train, base.tokenizer.pad_id)
    plain = LossHead(model, device)(batch)
    whole = LossHead(model, device)
    monkeypatch.setattr(whole, "_logits", None)
    monkeypatch.setattr("trellis_jobs.loss._PIECE_LOGITS", {"cpu": 16 * model.config.vocab_size})
    chunked = LossHead(model, device)(batch)
    for other in (whole(batch), chunked):
        torch.testing.assert_close(other.losses_N, plain.losses_N, rtol=1e-4, atol=1e-5)
        assert torch.equal(other.correct_N, plain.correct_N)


def test_capped_logits_are_noticed(base: Base, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = load_base(base.facts, device)
    monkeypatch.setattr(model.get_output_embeddings(), "forward", lambda hidden: hidden[..., :1] * 0)
    plain = model.forward

    def capped(*args: Any, **named: Any) -> Any:
        out = plain(*args, **named)
        out.logits = out.logits + 1
        return out

    monkeypatch.setattr(model, "forward", capped)
    assert LossHead(model, device)._logits is None


@pytest.mark.parametrize("broken", ["nan", "zero"])
def test_divergence_names_step_and_lines(
    make_spec: MakeSpec, data: Data, base: Base, device: Device, broken: str
) -> None:
    spec = make_spec()
    model = add_adapter(load_base(base.facts, device), spec, base.facts)
    stepper = Stepper(model, spec, data.train, device, base.tokenizer.pad_id)
    with torch.no_grad():
        for name, parameter in stepper.parameters.items():
            if broken == "zero":
                parameter.zero_()
            elif "lora_B" in name:
                parameter.fill_(math.nan)
    before = {name: parameter.clone() for name, parameter in stepper.parameters.items()}
    with pytest.raises(JobFailedError) as raised:
        stepper.step(range(10), 6, 100)
    assert raised.value.reason is Reason.TRAINING_DIVERGED
    assert raised.value.cause == END_CAUSE_USER
    assert "step 7" in str(raised.value)
    assert "and 2 more" in str(raised.value)
    for name, parameter in stepper.parameters.items():
        torch.testing.assert_close(parameter, before[name], equal_nan=True)


def test_bf16_learns_with_fp32_adapters(make_spec: MakeSpec, data: Data, base: Base) -> None:
    device = Device(torch.device("cpu"), torch.bfloat16)
    losses, stepper = run_steps(make_spec(), data, base, device, 6)
    assert all(parameter.dtype is torch.float32 for parameter in stepper.parameters.values())
    assert losses[-1] < losses[0]


def test_modules_are_all_linears_or_those_named(make_spec: MakeSpec, base: Base) -> None:
    everything = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    assert target_modules(make_spec(), base.facts) == everything
    named = make_spec(lora=Lora(target_modules=("self_attn.v_proj", "q_proj", "q_proj")))
    assert target_modules(named, base.facts) == ("q_proj", "self_attn.v_proj")
    for wrong in ("proj", "lm_head", "embed_tokens"):
        with pytest.raises(InvalidArgument, match=f"no linear module '{wrong}'") as raised:
            target_modules(make_spec(lora=Lora(target_modules=(wrong,))), base.facts)
        assert raised.value.violations[0].field == "tuning_job.supervised.lora.target_modules"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_accelerator_gives_the_losses_of_the_cpu(
    make_spec: MakeSpec, data: Data, base: Base, device: Device, precision: Precision
) -> None:
    expected, _ = run_steps(make_spec(), data, base, device, 4)
    found, stepper = run_steps(make_spec(), data, base, choose_device(precision), 4)
    assert found == pytest.approx(expected, rel=1e-3 if precision == "fp32" else 5e-2)
    assert all(parameter.is_cuda for parameter in stepper.parameters.values())
