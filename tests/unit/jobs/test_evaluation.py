"""Greedy answers against transformers' own generate, and the figures of an evaluation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trellis.objects import ObjectStore
from trellis.spec import TrainSpec
from trellis_jobs.answers import Answerer, Question, questions
from trellis_jobs.data import Data, read_data
from trellis_jobs.device import Device
from trellis_jobs.evaluation import Evaluator, groups_of
from trellis_jobs.failure import JobCancelledError
from trellis_jobs.model import Base, load_base

MakeSpec = Callable[..., TrainSpec]


def nothing() -> None:
    """No one wants to stop."""


def test_batched_answers_are_those_of_generate(data: Data, base: Base, device: Device) -> None:
    model: Any = load_base(base.facts, device)
    asked = [Question(data.train.ids(index)[: 5 + index], "", 3 + index) for index in range(4)]
    with torch.no_grad():
        answers = Answerer(model, base.tokenizer, device, nothing)._generate(asked)
    for question, answer in zip(asked, answers, strict=True):
        ids = torch.tensor([question.prompt])
        whole = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=question.max_new_tokens, do_sample=False
        )
        expected = whole[0, len(question.prompt) :].tolist()
        end = next((at for at, token in enumerate(expected) if token in base.tokenizer.eos_ids), len(expected))
        assert answer[: question.max_new_tokens] == expected[:end]


def test_questions_are_the_last_turns_of_whole_lines(data: Data, base: Base) -> None:
    found = questions(data.train, base.tokenizer, 3)
    assert len(found) == 3
    assert {question.expected for question in found} <= {"red", "a much longer answer", "blue", "no"}
    assert base.tokenizer.decode(found[0].prompt, skip_special_tokens=False).endswith("<|assistant|>")


def test_an_evaluation_counts_what_a_perfect_model_gets(
    data: Data, base: Base, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = Evaluator(data.held_out, base.tokenizer, device, 100, nothing)
    model: Any = load_base(base.facts, device)
    asked = {tuple(question.prompt): question for question in questions(data.held_out, base.tokenizer, 100)}

    def perfect(_self: Answerer, batch: list[Question]) -> list[list[int]]:
        return [base.tokenizer.encode_text(f" {asked[tuple(question.prompt)].expected}\n") for question in batch]

    monkeypatch.setattr(Answerer, "_generate", perfect)
    found = evaluator.evaluate(model)
    assert found.exact_match == 1.0
    assert found.line_count == found.answered_line_count == len(data.held_out)
    assert found.loss > 1
    assert model.training is False or model.training is True
    assert found.metrics().keys() == {"valid_loss", "valid_token_accuracy", "valid_exact_match"}


def test_nothing_held_out_is_no_error(make_spec: MakeSpec, store: ObjectStore, base: Base, device: Device) -> None:
    data = read_data(store, make_spec(held_out_fraction=0.0), "data/train.jsonl", "", base.tokenizer)
    assert (len(data.train), len(data.held_out)) == (24, 0)
    found = Evaluator(data.held_out, base.tokenizer, device, 10, nothing).evaluate(load_base(base.facts, device))
    assert (found.line_count, found.answered_line_count) == (0, 0)


def test_plain_text_has_no_answers(make_spec: MakeSpec, store: ObjectStore, base: Base, tmp_path: Path) -> None:
    store.put_bytes("data/text.jsonl", b'{"text": "one two"}\n{"text": "three"}\n{"text": "four"}')
    data = read_data(store, make_spec(), "data/text.jsonl", "", base.tokenizer)
    assert questions(data.train, base.tokenizer, 10) == []


def test_an_evaluation_can_be_stopped(data: Data, base: Base, device: Device) -> None:
    def stop() -> None:
        raise JobCancelledError

    model = load_base(base.facts, device)
    with pytest.raises(JobCancelledError):
        Evaluator(data.held_out, base.tokenizer, device, 1, stop).evaluate(model)


def test_groups_stay_within_their_budget() -> None:
    assert list(groups_of([5, 5, 4, 9, 1, 20], lambda size: size, 10)) == [[5, 5], [4], [9], [1], [20]]
    assert list(groups_of([], lambda size: size, 10)) == []
