"""What the finished model is measured by: held-out perplexity and replies to prompts of our own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import BatchEncoding, LlamaForCausalLM, PreTrainedTokenizerFast

from corpus import Dialogue
from stream import encode, render

SAMPLE_PROMPTS = (
    "Hi, I'm hungry. Could you find me a place to eat in Oakland?",
    "Can I get a large iced latte with oat milk?",
    "What will the weather be like tomorrow?",
    "I need a bus to Fresno next Monday.",
)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The score on the held-out dialogues, each read alone from its first token."""

    dialogues: int
    tokens: int
    perplexity: float


@dataclass(frozen=True, slots=True)
class Reach:
    """Perplexity by position, in rows of packed held-out dialogues as long as the model reads."""

    first_quarter: float
    last_quarter: float


@torch.inference_mode()
def held_out(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, dialogues: Sequence[Dialogue]) -> HeldOut:
    """Return the perplexity per token over all tokens that have one before them, at most the model's length each."""
    device, limit = model.device, model.config.max_position_embeddings
    nats, count = 0.0, 0
    for ids in encode(tokenizer, [render(tokenizer, dialogue) for dialogue in dialogues]):
        ids_1L = torch.tensor(ids[:limit].astype("int64"), device=device)[None]
        logits_1LV = model(ids_1L).logits.float()
        nats += cross_entropy(logits_1LV[0, :-1], ids_1L[0, 1:], reduction="sum").item()
        count += ids_1L.shape[1] - 1
    return HeldOut(len(dialogues), count, math.exp(nats / count))


@torch.inference_mode()
def reach(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, dialogues: Sequence[Dialogue]) -> Reach:
    """Return how well the far end of full rows is read beside their beginning."""
    length = model.config.max_position_embeddings
    texts = [render(tokenizer, dialogue) for dialogue in dialogues]
    tokens = np.concatenate(encode(tokenizer, texts)).astype(np.int64)
    rows_RL = torch.from_numpy(tokens[: len(tokens) // length * length]).view(-1, length).to(model.device)
    nats_L = torch.zeros(length - 1, device=model.device)
    for ids_L in rows_RL:
        nats_L += cross_entropy(model(ids_L[None]).logits[0, :-1].float(), ids_L[1:], reduction="none")
    quarters = (nats_L / len(rows_RL)).tensor_split(4)
    return Reach(quarters[0].mean().exp().item(), quarters[3].mean().exp().item())


@torch.inference_mode()
def reply(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: str) -> str:
    """Return the greedy reply to one user's message."""
    chat = [{"role": "user", "content": prompt}]
    inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert isinstance(inputs, BatchEncoding)
    inputs = inputs.to(model.device)
    untyped: Any = model  # `generate` is annotated for a type that no model has
    out_1L = untyped.generate(**inputs, do_sample=False, max_new_tokens=60, pad_token_id=tokenizer.pad_token_id)
    text = tokenizer.decode(out_1L[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert isinstance(text, str)
    return text
