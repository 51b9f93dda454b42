"""LoRA tuning as one writes it with peft and transformers alone, as a program of its own: the peer of Trellis's job.

It reads lines of `{"messages": [...]}`, learns the last turn of each, and answers the test lines greedily before and
after. It imports nothing of Trellis; with a seed it goes through the lines in the order that a job with that seed does,
so that only the way of computing differs. What it measured goes to `--out` as JSON.
"""

import argparse
import json
import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_BEGAN = time.monotonic()  # the imports below are part of what a user waits for

import torch  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    get_cosine_schedule_with_warmup,
    set_seed,
)
from transformers.utils import logging  # noqa: E402

_IGNORED = -100
_ANSWERED_AT_ONCE = 64
_ANSWER_TOKENS = 48
"""As long as an answer may get; the longest intent takes half of it."""


@dataclass(frozen=True, slots=True)
class Line:
    """A conversation as token ids; the answer is its last turn, with the token that ends it."""

    prompt: list[int]
    answer: list[int]


def read_lines(path: Path, tokenizer: Any) -> list[Line]:
    """The conversations of a file, through the tokenizer's own chat template."""
    lines = []
    with path.open(encoding="utf-8") as texts:
        for text in texts:
            messages = json.loads(text)["messages"]
            whole = tokenizer.apply_chat_template(messages, return_dict=False)
            prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
            assert whole[: len(prompt)] == prompt
            lines.append(Line(prompt, whole[len(prompt) :]))
    return lines


def collate(lines: Sequence[Line], pad_id: int) -> dict[str, torch.Tensor]:
    """A batch padded on the right, with labels at the answers only."""
    length = max(len(line.prompt) + len(line.answer) for line in lines)
    rows = [(line, length - len(line.prompt) - len(line.answer)) for line in lines]
    return {
        "input_ids": torch.tensor([line.prompt + line.answer + [pad_id] * pad for line, pad in rows]),
        "attention_mask": torch.tensor([[1] * (length - pad) + [0] * pad for _, pad in rows]),
        "labels": torch.tensor([[_IGNORED] * len(line.prompt) + line.answer + [_IGNORED] * pad for line, pad in rows]),
    }


def batches(lines: Sequence[Line], epochs: int, size: int, seed: int) -> Iterator[list[Line]]:
    """All steps' lines; those of an epoch are shuffled by the seed and the epoch's number."""
    for epoch in range(epochs):
        order = list(lines)
        random.Random(f"trellis {seed} {epoch}").shuffle(order)
        for start in range(0, len(order), size):
            yield order[start : start + size]


def train(model: Any, lines: Sequence[Line], pad_id: int, arguments: argparse.Namespace) -> int:
    """AdamW under a cosine with warm-up, gradients clipped to norm 1; the number of steps."""
    steps = math.ceil(len(lines) / arguments.batch_size) * arguments.epochs
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=arguments.learning_rate, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(arguments.warmup_ratio * steps), steps)
    model.train()
    for batch in batches(lines, arguments.epochs, arguments.batch_size, arguments.seed):
        model(**collate(batch, pad_id)).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return steps


@torch.inference_mode()
def evaluate(model: Any, lines: Sequence[Line], tokenizer: Any) -> dict[str, Any]:
    """Loss in nats an answer's token, greedy answers, and the share of them that is the expected text."""
    model.eval()
    loss, tokens, answered = 0.0, 0, []
    for start in range(0, len(lines), _ANSWERED_AT_ONCE):
        some = lines[start : start + _ANSWERED_AT_ONCE]
        count = sum(len(line.answer) for line in some)
        loss += float(model(**collate(some, tokenizer.pad_token_id)).loss) * count
        tokens += count
        answered += answers(model, some, tokenizer)
    exact = sum(said == expected for said, expected in answered) / len(lines)
    return {"loss": loss / tokens, "exact_match": exact, "answers": [said for said, _ in answered]}


def answers(model: Any, lines: Sequence[Line], tokenizer: Any) -> list[tuple[str, str]]:
    """The model's greedy answers beside the expected ones."""
    prompts = tokenizer.pad({"input_ids": [line.prompt for line in lines]}, padding_side="left", return_tensors="pt")
    said = model.generate(**prompts, max_new_tokens=_ANSWER_TOKENS, do_sample=False)
    texts = tokenizer.batch_decode(said[:, prompts["input_ids"].shape[1] :], skip_special_tokens=True)
    expected = tokenizer.batch_decode([line.answer for line in lines], skip_special_tokens=True)
    return [(one.strip(), other.strip()) for one, other in zip(texts, expected, strict=True)]


def tune(base: Any, tokenizer: Any, test: Sequence[Line], arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluate, train, evaluate again, save."""
    lines = read_lines(arguments.train, tokenizer)
    before = evaluate(base, test, tokenizer)
    set_seed(arguments.seed)
    config = LoraConfig(
        r=arguments.rank,
        lora_alpha=arguments.alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    model = get_peft_model(base, config)
    began = time.monotonic()
    steps = train(model, lines, tokenizer.pad_token_id, arguments)
    seconds = time.monotonic() - began
    after = evaluate(model, test, tokenizer)
    if arguments.save:
        model.save_pretrained(arguments.save)
    return {"base": before, "tuned": after, "steps": steps, "training_seconds": seconds}


def main() -> None:
    """Tune an adapter and evaluate it; with `--adapter` evaluate one that is there as well."""
    arguments = _arguments()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(arguments.threads)
    tokenizer = AutoTokenizer.from_pretrained(arguments.base)
    base = AutoModelForCausalLM.from_pretrained(arguments.base, dtype=torch.float32)
    test = read_lines(arguments.test, tokenizer)
    found = tune(base, tokenizer, test, arguments)
    found["seconds"] = time.monotonic() - _BEGAN
    if arguments.adapter:
        fresh = AutoModelForCausalLM.from_pretrained(arguments.base, dtype=torch.float32)
        found["adapter"] = evaluate(PeftModel.from_pretrained(fresh, arguments.adapter), test, tokenizer)
    arguments.out.write_text(json.dumps(found) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.peers.plain_peft", description=__doc__)
    for name in ("--base", "--train", "--test", "--out"):
        parser.add_argument(name, type=Path, required=True)
    for name in ("--save", "--adapter"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--alpha", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--warmup-ratio", type=float, default=0.03)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    return parser.parse_args()


if __name__ == "__main__":
    main()
