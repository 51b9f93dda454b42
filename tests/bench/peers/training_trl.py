"""An adapter as TRL's SFTTrainer tunes it, a program for one tenant; imports nothing of Trellis.

It prepares the lines, masks and pads as TRL does of itself; order, schedule and steps are those of the other peers.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset

from tests.bench.peers.plain_peft import batches
from tests.bench.peers.training_trainer import Losses, arguments, load, lora_config, plain
from tests.bench.training_rig.tenant import Task, Tuned


def tune(base: Any, tokenizer: Any, task: Task) -> Tuned:
    """Tune and save an adapter; loss on the last turn alone."""
    texts = Path(task.lines).read_text(encoding="utf-8").splitlines()
    talks: list[Any] = [json.loads(text)["messages"] for text in texts]
    steps = task.epochs * math.ceil(len(talks) / task.batch_size)
    ordered = [talk for batch in batches(talks, task.epochs, task.batch_size, task.seed) for talk in batch]
    lines = Dataset.from_list([{"prompt": talk[:-1], "completion": talk[-1:]} for talk in ordered])
    heard = Losses()
    settings = trl.SFTConfig(**arguments(task, steps), bf16=False, gradient_checkpointing=False)
    trainer = trl.SFTTrainer(
        base,
        settings,
        train_dataset=lines,
        processing_class=tokenizer,
        peft_config=lora_config(task),
        callbacks=[heard],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    began = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - began
    trainer.save_model(task.out)
    return Tuned(heard.losses, seconds)


def main() -> None:
    """Tune one adapter."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", type=Path, required=True)
    task = Task.read(parser.parse_args().task)
    plain()
    torch.set_num_threads(task.threads)
    transformers.set_seed(task.seed)
    tuned = tune(*load(task.base), task)
    result = tuned.to_json() | {"trl": trl.__version__}
    (Path(task.out) / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
