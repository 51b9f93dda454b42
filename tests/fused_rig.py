"""Fused models over tiny random bases, jobs' adapters and chunks for them, and PEFT's models with the same weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.tiny_families import FAMILIES, VOCABULARY, write_tiny_model
from trellis.bases import BaseFacts, read_base
from trellis.lora import AdapterBank, HostAdapter, LoraPair, LoraWeights
from trellis_jobs.device import Device
from trellis_jobs.examples import Row
from trellis_jobs.shared.chunk import Chunk
from trellis_jobs.shared.fused import FusedModel

CPU = Device(torch.device("cpu"), torch.float32)
Gradients = list[Tensor]


@dataclass(frozen=True)
class Job:
    """An adapter: its rank, alpha and the last parts of its targets' paths (None for all), and the seed of its weights."""

    rank: int
    alpha: float = 8.0
    targets: tuple[str, ...] | None = None
    seed: int = 0


def base_of(family: str, folder: Path) -> BaseFacts:
    return read_base(str(write_tiny_model(folder / family, FAMILIES[family]())))


def load(facts: BaseFacts, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(facts.path, dtype=dtype)


def fused_of(facts: BaseFacts, device: Device = CPU, *, checkpointing: bool = False) -> FusedModel:
    model = load(facts, device.dtype).to(device.target)
    return FusedModel(model, facts, device, rank_rows=96, max_slots=6, gradient_checkpointing=checkpointing)


def weights_of(job: Job, facts: BaseFacts) -> LoraWeights:
    """Random numbers in A and in B, so that the gradients of neither are zero."""
    generator = torch.Generator().manual_seed(job.seed)
    pairs = {}
    for path, (outs, ins) in facts.linear_shapes.items():
        a, b = torch.randn(job.rank, ins, generator=generator), torch.randn(outs, job.rank, generator=generator)
        if job.targets is None or path.rsplit(".", 1)[-1] in job.targets:
            pairs[path] = LoraPair(a * 0.1, b * 0.1, job.alpha / job.rank)
    return LoraWeights(str(job), pairs)


def add(fused: FusedModel, job: Job, facts: BaseFacts) -> int:
    groups = tuple(bank.group for bank in fused.bank.groups.values())
    return fused.bank.add(HostAdapter.pack(weights_of(job, facts), groups, torch.float32))


def peft_of(job: Job, facts: BaseFacts) -> Any:
    """A PeftModel with the job's weights."""
    weights = weights_of(job, facts)
    names = sorted({path.rsplit(".", 1)[-1] for path in weights.pairs})
    config = LoraConfig(r=job.rank, lora_alpha=job.alpha, target_modules=names, task_type="CAUSAL_LM")  # type: ignore[arg-type]
    model: Any = get_peft_model(load(facts).eval(), config)
    with torch.no_grad():
        for path, pair in weights.pairs.items():
            module = model.base_model.model.get_submodule(path)
            module.lora_A["default"].weight.copy_(pair.a_RI)
            module.lora_B["default"].weight.copy_(pair.b_OR)
    return model


def random_row(length: int, generator: torch.Generator) -> Row:
    """A line some of whose tokens are trained, with unlike weights."""
    ids_T = torch.randint(1, VOCABULARY, (length,), generator=generator)
    draw_T = torch.rand(length, generator=generator)
    return Row(ids_T, torch.where(draw_T > 0.3, draw_T + 0.5, torch.zeros(length)))


def random_chunk(lengths: Sequence[int], slot: int | None, seed: int, dropout: float = 0.0) -> Chunk:
    generator = torch.Generator().manual_seed(seed)
    return Chunk(tuple(random_row(length, generator) for length in lengths), slot, dropout, seed)


def clear(bank: AdapterBank) -> None:
    assert bank.values_V.grad is not None
    bank.values_V.grad.zero_()


def gradients(bank: AdapterBank, slot: int) -> Gradients:
    """Copies of the slot's, of each part that it changes."""
    return [gradient.clone() for _, gradient in parameters(bank, slot)]


def parameters(bank: AdapterBank, slot: int) -> list[tuple[Tensor, Tensor]]:
    """Views of the slot's weights, each with that of its gradient."""
    found: list[tuple[Tensor, Tensor]] = []
    for group in bank.groups.values():
        for part in range(len(group.group.parts)):
            pair = group.pair(slot, part)
            gradients = None if pair is None else group.grad_pair(slot, part)
            if pair is not None and gradients is not None:
                found += zip(pair, gradients, strict=True)
    return found


def learn(fused: FusedModel, chunks: Sequence[Chunk], scale: Callable[[int], float] = lambda _: 1.0) -> list[Tensor]:
    """One pass forward and backward from no gradients; the losses of each chunk."""
    clear(fused.bank)
    found = fused.losses(chunks)
    fused.backward([each.weighted * scale(number) for number, each in enumerate(found)])
    return [each.losses_N.detach() for each in found]
