"""An adapter as users tune it today, with peft and transformers' Trainer; imports nothing of Trellis.

With `--task` it is a program that tunes one tenant's adapter and ends: start, imports and the base's load are part of it.
With `--warm` it stays, the base loaded once, and tunes what the pipe asks, one adapter after another.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

from tests.bench.peers.plain_peft import Line, batches, collate, read_lines
from tests.bench.serving_rig import pipe
from tests.bench.training_rig.tenant import Task, Tuned


def lora_config(task: Task) -> LoraConfig:
    """As peft takes it."""
    return LoraConfig(
        r=task.rank,
        lora_alpha=task.alpha,
        lora_dropout=0.0,
        target_modules=list(task.targets) or "all-linear",
        task_type="CAUSAL_LM",
    )


def arguments(task: Task, steps: int) -> dict[str, Any]:
    """What Trainer and SFTTrainer are told alike; the order of lines is that of the dataset."""
    return {
        "output_dir": task.out,
        "per_device_train_batch_size": task.batch_size,
        "max_steps": steps,
        "learning_rate": task.learning_rate,
        "max_grad_norm": task.max_grad_norm,
        "lr_scheduler_type": "linear",
        "weight_decay": 0.0,
        "train_sampling_strategy": "sequential",
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "report_to": [],
        "logging_steps": 1,
        "disable_tqdm": True,
        "seed": task.seed,
    }


class Losses(transformers.TrainerCallback):
    """Keeps the losses that Trainer logs."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
        """Trainer's own line a step."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


def tune(base: Any, tokenizer: Any, task: Task) -> Tuned:
    """Tune and save an adapter; the base is as before afterwards."""
    lines = read_lines(Path(task.lines), tokenizer)
    steps = task.epochs * math.ceil(len(lines) / task.batch_size)
    ordered = [line for batch in batches(lines, task.epochs, task.batch_size, task.seed) for line in batch]
    set_seed(task.seed)
    model: Any = get_peft_model(base, lora_config(task))
    heard = Losses()

    def collated(some: Sequence[Line]) -> dict[str, torch.Tensor]:
        return collate(some, tokenizer.pad_token_id)

    settings = TrainingArguments(**arguments(task, steps), remove_unused_columns=False)
    trainer = Trainer(model, settings, collated, ordered, callbacks=[heard])
    trainer.remove_callback(transformers.PrinterCallback)
    began = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - began
    model.save_pretrained(task.out)
    model.unload()
    return Tuned(heard.losses, seconds)


def load(base: str) -> tuple[Any, Any]:
    """The base in fp32 and its tokenizer."""
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), AutoTokenizer.from_pretrained(base)


def plain() -> None:
    """No progress bars; and no DeepSpeed, which Trainer would take a second to import where it happens to be installed."""
    sys.modules["deepspeed"] = None  # type: ignore[assignment]
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def main() -> None:
    """Tune one adapter, or what the pipe asks."""
    answers = pipe.claim_answers()
    parser = argparse.ArgumentParser(description=__doc__)
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--task", type=Path, help="a task's file")
    way.add_argument("--warm", metavar="BASE", help="stay, with this base")
    parser.add_argument("--threads", type=int, help="of a process that stays")
    given = parser.parse_args()
    plain()
    if given.task is not None:
        task = Task.read(given.task)
        torch.set_num_threads(task.threads)
        tuned = tune(*load(task.base), task)
        (Path(task.out) / "result.json").write_text(json.dumps(tuned.to_json()))
        return
    torch.set_num_threads(given.threads)
    base, tokenizer = load(given.warm)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__}
    pipe.serve(answers, {"versions": versions}, {"run": lambda asked: tune(base, tokenizer, Task(**asked)).to_json()})


if __name__ == "__main__":
    main()
