"""The recipe of the tiny base model: its split, its tasks, its stream, its schedule, and going on from a checkpoint."""

import importlib
import json
import lzma
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

FOLDER = Path(__file__).parents[2] / "deploy" / "base_model"
NAMES = ("recipe", "corpus", "tasks", "tokenizer", "stream", "model", "training", "evaluation", "model_card")


@pytest.fixture(scope="module")
def base() -> Iterator[SimpleNamespace]:
    """The scripts' modules, which import each other as siblings; forgotten again afterwards."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in NAMES})
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            sys.modules.pop(name, None)


def dialogue(number: int) -> list[dict[str, Any]]:
    return [
        {"role": "user", "content": f"I would like to see the movie number {number} at the Old Harbour theater today."},
        {"role": "assistant", "content": f"Two tickets for that film cost {number + 7} dollars, shall I buy them?"},
    ]


DIALOGUES = [dialogue(number) for number in range(200)]


def test_the_split_depends_on_the_words_alone(base: SimpleNamespace) -> None:
    training, held_out = base.corpus.split(DIALOGUES, 0.2)
    again = base.corpus.split(DIALOGUES[::-1], 0.2)
    assert training == again[0][::-1]
    assert held_out == again[1][::-1]
    assert 15 < len(held_out) < 65
    assert len(training) + len(held_out) == len(DIALOGUES)


def test_dialogues_are_read_from_plain_and_compressed_lines(base: SimpleNamespace, tmp_path: Path) -> None:
    line = json.dumps({"messages": DIALOGUES[0]})
    (tmp_path / "a.jsonl").write_text(line, encoding="utf-8")
    with lzma.open(tmp_path / "b.jsonl.xz", "wt", encoding="utf-8") as file:
        file.write(line)
    assert base.corpus.read_folder(tmp_path) == [DIALOGUES[0]] * 2


def test_a_folder_without_dialogues_is_refused(base: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="jsonl"):
        base.corpus.read_folder(tmp_path)


def test_a_line_that_is_no_chat_is_named(base: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"messages": [{"role": "user"}]}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.jsonl:1"):
        base.corpus.read_folder(tmp_path)


@pytest.mark.parametrize("seed", range(50))
def test_a_task_ends_with_the_assistant_and_its_json_is_json(base: SimpleNamespace, seed: int) -> None:
    task, tools = base.tasks.make_task(DIALOGUES, random.Random(seed))
    assert task[-1]["role"] == "assistant"
    assert task[-1]["content"]
    assert (tools is not None) == any(message["role"] == "tool" for message in task)
    if task[-1]["content"].startswith(("{", "[")):
        json.loads(task[-1]["content"])


def test_the_topic_is_the_one_that_leads(base: SimpleNamespace) -> None:
    assert base.tasks.topic_of(DIALOGUES[0]) == "films"
    assert base.tasks.topic_of([{"role": "user", "content": "A hotel near the station."}]) is None


def new_tokenizer(base: SimpleNamespace) -> Any:
    texts = [message["content"] for turns in DIALOGUES for message in turns]
    return base.tokenizer.train_tokenizer(texts, 300, 64)


def new_stream(base: SimpleNamespace) -> Any:
    return base.stream.TokenStream(new_tokenizer(base), DIALOGUES, task_share=0.15, seed=3)


def test_the_stream_is_the_same_for_the_same_seed_and_can_be_entered_anywhere(base: SimpleNamespace) -> None:
    stream = new_stream(base)
    taken = [stream.take(256).tolist() for _ in range(5)]
    stream.seek(0, 3 * 256)
    assert stream.take(256).tolist() == taken[3]
    assert new_stream(base).take(256).tolist() == taken[0]


def test_each_epoch_has_another_order(base: SimpleNamespace) -> None:
    stream = new_stream(base)
    first = stream.take(256).tolist()
    stream.seek(1, 0)
    assert stream.take(256).tolist() != first


def test_the_stream_goes_on_into_the_next_epoch(base: SimpleNamespace) -> None:
    stream = new_stream(base)
    stream.seek(0, stream.epoch_tokens - 10)
    stream.take(256)
    assert (stream.epoch, stream.offset) == (1, 256)


def test_the_further_used_budget_counts(base: SimpleNamespace) -> None:
    recipe = base.recipe.Recipe(tokens=1000, minutes=10)
    assert base.training.Progress(tokens=500, seconds=60).fraction(recipe) == 0.5
    assert base.training.Progress(tokens=100, seconds=300).fraction(recipe) == 0.5
    assert base.training.Progress(tokens=2000).fraction(recipe) == 1.0


def test_the_learning_rate_warms_up_and_falls(base: SimpleNamespace) -> None:
    recipe = base.recipe.Recipe()
    rates = [base.training.learning_rate(recipe, step / 100) for step in range(101)]
    assert max(rates) == rates[2] == recipe.learning_rate
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] == pytest.approx(recipe.learning_rate * recipe.final_learning_rate_ratio)


@pytest.mark.parametrize(("fraction", "length"), [(0.0, 256), (0.59, 256), (0.6, 512), (0.85, 1024), (1.0, 1024)])
def test_rows_grow(base: SimpleNamespace, fraction: float, length: int) -> None:
    assert base.training.row_tokens(base.recipe.Recipe(), fraction) == length


def new_trainer(base: SimpleNamespace) -> Any:
    """A trainer of a very small model, whose clock says that each look takes a second."""
    shape = base.recipe.ModelShape(300, 32, 64, 1, 2, 1, 64)
    stages = (base.recipe.LengthStage(0.0, 32), base.recipe.LengthStage(0.5, 64))
    recipe = replace(base.recipe.Recipe(), shape=shape, stages=stages, batch_tokens=128, compiled=False)
    model = base.model.new_model(shape, new_tokenizer(base), seed=1)
    ticks = iter(range(10**6))
    return base.training.Trainer(model, new_stream(base), recipe, torch.device("cpu"), lambda: float(next(ticks)))


def test_a_resumed_training_repeats_what_an_unbroken_one_does(base: SimpleNamespace, tmp_path: Path) -> None:
    unbroken = new_trainer(base)
    losses = []
    for loss in islice(unbroken.steps(), 6):
        losses.append(loss)
        if len(losses) == 3:
            unbroken.save(tmp_path / "checkpoint.pt")
    resumed = new_trainer(base)
    resumed.load(tmp_path / "checkpoint.pt")
    assert list(islice(resumed.steps(), 3)) == losses[3:]
    assert resumed.progress.step == 6


def test_the_exported_folder_and_its_card_are_complete(base: SimpleNamespace, tmp_path: Path) -> None:
    trainer, tokenizer = new_trainer(base), new_tokenizer(base)
    base.model.export(trainer.model, tokenizer, tmp_path / "out")
    score = base.evaluation.held_out(trainer.model.eval(), tokenizer, DIALOGUES[:3])
    reach = base.evaluation.reach(trainer.model, tokenizer, DIALOGUES[:3])
    recipe = base.recipe.Recipe()
    facts = base.model_card.Facts(recipe, 7_000_000, 1_000_000, 60.0, score, reach, {"Hi | ho": "Hello."})
    base.model_card.write_card(tmp_path / "out", facts)
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja", "README.md"}
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"**{score.perplexity:.2f}**" in card
    assert "| Hi \\| ho | Hello. |" in card
    assert score.dialogues == 3
