"""Supervised LoRA as one writes it with peft and transformers alone: the peer of Trellis's tuning job.

It starts from the same weights and goes through the lines in the same order, so that only the way of computing differs.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

IGNORED = -100
LINEARS = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
Conversation = Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class PlainSettings:
    """The settings of one training; those that are not named are peft's and torch's own."""

    rank: int = 16
    alpha: int = 32
    epochs: int = 5
    batch_size: int = 16
    learning_rate: float = 3e-3
    warmup_ratio: float = 0.03
    max_grad_norm: float = 1.0
    max_length: int = 1024
    seed: int = 0
    max_steps: int | None = None


@dataclass(frozen=True, slots=True)
class PlainResult:
    """Shares of test lines answered exactly, before and after; seconds of training alone and in all."""

    base_exact_match: float
    tuned_exact_match: float
    losses: tuple[float, ...]
    training_seconds: float
    seconds: float


def train_plain(
    base_folder: Path, train: Sequence[Conversation], test: Sequence[Conversation], settings: PlainSettings
) -> PlainResult:
    """Tune on `train` in fp32, and answer the last turns of `test` before and after."""
    began = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    torch.manual_seed(settings.seed)
    config = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=LINEARS, task_type="CAUSAL_LM")
    model: Any = get_peft_model(base, config)
    with model.disable_adapter():
        before = exact_match(model, tokenizer, test)
    training_began = time.monotonic()
    losses = _train(model, [_encoded(tokenizer, line, settings.max_length) for line in train], settings)
    training_seconds = time.monotonic() - training_began
    after = exact_match(model, tokenizer, test)
    return PlainResult(before, after, tuple(losses), training_seconds, time.monotonic() - began)


def _encoded(tokenizer: Any, messages: Conversation, max_length: int) -> tuple[list[int], list[int]]:
    """Token ids, and labels that leave out all that the assistant did not say."""
    found = tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, return_dict=True)
    said = zip(found["input_ids"], found["assistant_masks"], strict=True)
    labels = [token if mask else IGNORED for token, mask in said]
    return found["input_ids"][:max_length], labels[:max_length]


def _train(model: Any, lines: list[tuple[list[int], list[int]]], settings: PlainSettings) -> list[float]:
    batches = [batch for epoch in range(settings.epochs) for batch in _batches(len(lines), epoch, settings)]
    batches = batches[: settings.max_steps]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0)
    warmup = int(settings.warmup_ratio * len(batches))
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, len(batches))
    model.train()
    losses = []
    for batch in batches:
        loss = model(**_padded([lines[index] for index in batch])).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def _batches(count: int, epoch: int, settings: PlainSettings) -> list[list[int]]:
    order = list(range(count))
    random.Random(f"trellis {settings.seed} {epoch}").shuffle(order)
    return [order[start : start + settings.batch_size] for start in range(0, count, settings.batch_size)]


def _padded(lines: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    length = max(len(ids) for ids, _ in lines)
    return {
        "input_ids": torch.tensor([ids + [0] * (length - len(ids)) for ids, _ in lines]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in lines]),
        "labels": torch.tensor([labels + [IGNORED] * (length - len(labels)) for _, labels in lines]),
    }


@torch.no_grad()
def exact_match(model: Any, tokenizer: Any, lines: Sequence[Conversation], batch_size: int = 50) -> float:
    """The share of lines whose last turn is answered exactly by `generate`, greedily."""
    model.eval()
    tokenizer.padding_side = "left"
    longest = max(len(tokenizer(line[-1]["content"])["input_ids"]) for line in lines)
    right = 0
    for start in range(0, len(lines), batch_size):
        batch = lines[start : start + batch_size]
        prompts = [list(line[:-1]) for line in batch]
        inputs = tokenizer.apply_chat_template(
            prompts, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
        )
        inputs.pop("token_type_ids", None)
        out = model.generate(**inputs, max_new_tokens=longest + 4, do_sample=False)
        answers = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        pairs = zip(answers, batch, strict=True)
        right += sum(answer.strip() == line[-1]["content"].strip() for answer, line in pairs)
    return right / len(lines)
