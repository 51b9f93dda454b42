"""Train the tiny base model: `python deploy/base_model/train.py --corpus DIR --out DIR`."""

from __future__ import annotations

import argparse
import dataclasses
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from corpus import Dialogue, read_folder, split
from evaluation import SAMPLE_PROMPTS, held_out, reach, reply
from model import export, new_model, parameter_count
from model_card import Facts, write_card
from recipe import Recipe
from stream import TokenStream
from tasks import make_task
from tokenizer import load_or_train
from training import Progress, Trainer

_PROGRESS_EVERY_STEPS = 20


def main() -> None:
    """Read the corpus, train the tokenizer and the model, measure, and write the model's folder."""
    arguments = _arguments()
    recipe = dataclasses.replace(
        Recipe(),
        minutes=arguments.minutes,
        tokens=arguments.tokens,
        seed=arguments.seed,
        compiled=not arguments.eager,
    )
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    work = arguments.work or arguments.out.with_name(arguments.out.name + ".work")
    training, kept_back = split(read_folder(arguments.corpus), recipe.held_out_share)
    texts = _tokenizer_texts(training, recipe)
    tokenizer = load_or_train(work, texts, recipe.shape.vocab_size, recipe.shape.max_position_embeddings)
    stream = TokenStream(tokenizer, training, recipe.task_share, recipe.seed)
    model = new_model(recipe.shape, tokenizer, recipe.seed)
    torch.nn.Module.to(model, device)
    print(f"{parameter_count(model):,} parameters, {stream.epoch_tokens:,} tokens an epoch, on {device}", flush=True)
    trainer = Trainer(model, stream, recipe, device, time.monotonic)
    _train(trainer, recipe, work, tokenizer)
    _finish(model.eval(), tokenizer, kept_back, trainer.progress, recipe, arguments.out)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Recipe()
    parser.add_argument("--corpus", type=Path, required=True, help="folder of chat *.jsonl or *.jsonl.xz")
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished model")
    parser.add_argument("--work", type=Path, help="folder for checkpoints and early exports (default: OUT.work)")
    parser.add_argument("--minutes", type=float, default=default.minutes, help="budget of training time")
    parser.add_argument("--tokens", type=int, default=default.tokens, help="budget of training tokens")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads")
    parser.add_argument("--eager", action="store_true", help="do without torch.compile, which needs a C++ compiler")
    parser.add_argument("--seed", type=int, default=default.seed)
    return parser.parse_args()


def _tokenizer_texts(dialogues: list[Dialogue], recipe: Recipe) -> Iterator[str]:
    """Yield every message, some with bare words in small letters (as in JSON and snake_case), and tasks."""
    rng = random.Random(f"{recipe.seed}/tokenizer")
    for dialogue in dialogues:
        yield from (message["content"] for message in dialogue)
        yield "_".join(rng.choice(dialogue)["content"].lower().split())
        yield "_".join(rng.choice(dialogue)["content"].lower().split())
    for _ in range(len(dialogues) // 2):
        task, _tools = make_task(dialogues, rng)
        yield from (message["content"] for message in task)


def _train(trainer: Trainer, recipe: Recipe, work: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Train to the end of the budget, from the checkpoint in `work` if there is one, and leave checkpoints there."""
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        trainer.load(checkpoint)
    saved = trainer.progress.seconds
    mean = math.nan
    for loss in trainer.steps():
        mean = loss if math.isnan(mean) else 0.95 * mean + 0.05 * loss
        if trainer.progress.step % _PROGRESS_EVERY_STEPS == 0:
            print(_progress_line(trainer.progress, recipe, mean), flush=True)
        if trainer.progress.seconds - saved > 60 * recipe.checkpoint_minutes:
            saved = trainer.progress.seconds
            trainer.save(checkpoint)
            export(trainer.model, tokenizer, work / "early")
    trainer.save(checkpoint)


def _progress_line(progress: Progress, recipe: Recipe, loss: float) -> str:
    fraction = progress.fraction(recipe)
    left = progress.seconds / 60 * (1 - fraction) / max(fraction, 1e-6)
    return (
        f"step {progress.step}  loss {loss:.3f}  {progress.tokens / 1e6:.2f} M tokens  "
        f"{progress.tokens / max(progress.seconds, 1e-6):,.0f} tok/s  {fraction:.1%}  {left:.0f} min left"
    )


def _finish(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    kept_back: list[Dialogue],
    progress: Progress,
    recipe: Recipe,
    out: Path,
) -> None:
    """Export the model, measure it as it was exported, and write its card."""
    export(model, tokenizer, out)
    exported = LlamaForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    torch.nn.Module.to(exported, model.device)
    score = held_out(exported, tokenizer, kept_back)
    samples = {prompt: reply(exported, tokenizer, prompt) for prompt in SAMPLE_PROMPTS}
    far = reach(exported, tokenizer, kept_back)
    write_card(out, Facts(recipe, parameter_count(model), progress.tokens, progress.seconds, score, far, samples))
    print(f"held-out perplexity {score.perplexity:.2f} over {score.tokens:,} tokens; written to {out}", flush=True)


if __name__ == "__main__":
    main()
