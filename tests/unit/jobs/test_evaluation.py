"""Greedy answers against transformers' own generate, and the figures of an evaluation."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from trellis.objects import ObjectStore
from trellis.spec import TrainSpec
from trellis.v1.worker_pb2 import StartAttemptResponse
from trellis_jobs.answers import Answerer, Question, questions
from trellis_jobs.device import Device
from trellis_jobs.evaluation import Evaluation, groups_of
from trellis_jobs.failure import JobCancelledError
from trellis_jobs.methods.open import Data, read_items
from trellis_jobs.model import Base, load_base

MakeSpec = Callable[..., TrainSpec]


def nothing() -> None:
    """No one wants to stop."""


def test_batched_answers_are_those_of_generate(data: Data, base: Base, device: Device) -> None:
    model: Any = load_base(base.facts, device)
    asked = [Question(data.train.sequences.ids(index)[: 5 + index], "", 3 + index) for index in range(4)]
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
    found = questions(data.train.sequences, base.tokenizer, 3)
    assert len(found) == 3
    assert {question.expected for question in found} <= {"red", "a much longer answer", "blue", "no"}
    assert base.tokenizer.decode(found[0].prompt, skip_special_tokens=False).endswith("<|assistant|>")


def test_answers_are_counted_but_for_white_space(data: Data, base: Base, device: Device) -> None:
    asked = questions(data.answers, base.tokenizer, 100)
    answers = [base.tokenizer.encode_text(f" {question.expected}\n") for question in asked]
    answers[0] = base.tokenizer.encode_text("another")
    answerer = Answerer(None, base.tokenizer, device, nothing)
    assert len(asked) == len(data.held_out) > 1
    assert answerer.exact(asked, answers) == len(asked) - 1


def test_an_evaluation_is_told_as_metrics_and_in_words() -> None:
    found = Evaluation(1.5, 0.25, 0.5, 4, 2)
    assert found.metrics() == {"valid_loss": 1.5, "valid_token_accuracy": 0.25, "valid_exact_match": 0.5}
    assert str(found) == "loss 1.5000, 25.0% of tokens, 50.0% of 2 answers exact (4 held-out lines)"
    assert str(Evaluation(1.5, 0.25, 0.0, 1, 0)) == "loss 1.5000, 25.0% of tokens (1 held-out line)"
    assert "valid_exact_match" not in Evaluation(1.5, 0.25, 0.0, 4, 0).metrics()
    assert found.to_proto().answered_line_count == 2


def test_plain_text_has_no_answers(make_spec: MakeSpec, store: ObjectStore, base: Base) -> None:
    store.put_bytes("data/text.jsonl", b'{"text": "one two"}\n{"text": "three"}\n{"text": "four"}')
    data = read_items(store, make_spec(), StartAttemptResponse(training_key="data/text.jsonl"), base.tokenizer)
    assert questions(data.train.sequences, base.tokenizer, 10) == []


def test_answering_can_be_stopped(data: Data, base: Base, device: Device) -> None:
    def stop() -> None:
        raise JobCancelledError

    model = load_base(base.facts, device)
    with pytest.raises(JobCancelledError):
        Answerer(model, base.tokenizer, device, stop).count_exact(questions(data.answers, base.tokenizer, 1))


def test_groups_stay_within_their_budget() -> None:
    assert list(groups_of([5, 5, 4, 9, 1, 20], lambda size: size, 10)) == [[5, 5], [4], [9], [1], [20]]
    assert list(groups_of([], lambda size: size, 10)) == []
