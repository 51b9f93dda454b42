from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.engine_calls import Clock, alone, at_rest, drain, ids_of, request, text_of
from tests.workshop import Workshop, make_workshop
from transformers import AutoModelForCausalLM

from trellis.engine import AdapterRef, FinishReason, ResponseFormat, Sampling
from trellis.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    Reason,
    ResourceExhausted,
)

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def test_requests_take_turns(workshop: Workshop, adapters: list[AdapterRef]) -> None:
    engine = workshop.engine()
    engine.submit(request(workshop, "long", max_tokens=20, adapter=adapters[0]))
    while not engine.step():
        pass
    engine.submit(request(workshop, "short", max_tokens=2, adapter=adapters[1]))
    engine.step()  # takes the adapter in
    assert [o.request_id for o in engine.step()] == ["long", "short"]
    assert [o.finish_reason for o in engine.step()] == [None, FinishReason.LENGTH]


def test_usage_and_finish_reason(workshop: Workshop) -> None:
    outputs = alone(workshop, request(workshop, "r", max_tokens=5))
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert (outputs[-1].prompt_tokens, outputs[-1].completion_tokens) == (5, 5)
    assert all(output.finish_reason is None for output in outputs[:-1])


def test_the_text_is_the_tokens_text(workshop: Workshop) -> None:
    sampling = Sampling(seed=3)
    outputs = alone(workshop, request(workshop, "r", sampling=sampling, max_tokens=60))
    ids = [i for i in ids_of(outputs) if i not in workshop.tokenizer.eos_ids]
    assert text_of(outputs) == workshop.tokenizer.decode(ids)


def test_an_end_token_ends_the_turn(workshop: Workshop) -> None:
    sampling = Sampling(seed=0)
    for seed in range(200):
        outputs = alone(workshop, request(workshop, "r", sampling=replace(sampling, seed=seed), max_tokens=60))
        if outputs[-1].finish_reason is FinishReason.STOP:
            assert ids_of(outputs)[-1] in workshop.tokenizer.eos_ids
            assert not set(ids_of(outputs)[:-1]) & workshop.tokenizer.eos_ids
            return
    pytest.fail("the end token never came")


def test_a_stop_string_across_tokens_ends_the_answer_before_it(workshop: Workshop) -> None:
    whole = text_of(alone(workshop, request(workshop, "r", sampling=Sampling(seed=1), max_tokens=40)))
    stop = whole[5:9]
    outputs = alone(workshop, request(workshop, "r", sampling=Sampling(seed=1), max_tokens=40, stop=("never!", stop)))
    assert text_of(outputs) == whole[: whole.index(stop)]
    assert outputs[-1].finish_reason is FinishReason.STOP


def test_the_same_seed_gives_the_same_answer_beside_others(workshop: Workshop, adapters: list[AdapterRef]) -> None:
    wanted = request(workshop, "r", sampling=Sampling(temperature=1.3, top_p=0.9, seed=-5), adapter=adapters[0])
    engine = workshop.engine()
    engine.submit(request(workshop, "other", sampling=Sampling(seed=7), adapter=adapters[1]))
    engine.step()
    engine.submit(wanted)
    engine.submit(request(workshop, "unseeded", sampling=Sampling()))
    assert ids_of(drain(engine)["r"]) == ids_of(alone(workshop, wanted))


def test_different_seeds_differ(workshop: Workshop) -> None:
    answers = {tuple(ids_of(alone(workshop, request(workshop, "r", sampling=Sampling(seed=s))))) for s in range(5)}
    assert len(answers) == 5


def test_logprobs_are_the_untempered_models(workshop: Workshop, base_model: AutoModelForCausalLM) -> None:
    sampling = Sampling(temperature=0.5, top_k=3, seed=1)
    wanted = request(workshop, "r", sampling=sampling, logprobs=3, max_tokens=4)
    outputs = alone(workshop, wanted)
    ids = torch.tensor([[*wanted.prompt_ids, *ids_of(outputs)]])
    with torch.no_grad():
        expected = torch.log_softmax(base_model(ids).logits[0].float(), -1)
    for position, output in enumerate(outputs, start=len(wanted.prompt_ids) - 1):
        (chance,) = output.logprobs
        assert math.isclose(chance.logprob, float(expected[position, chance.token_id]), abs_tol=1e-4)
        values, order = expected[position].topk(3)
        assert [a.token_id for a in chance.alternatives] == order.tolist()
        assert [a.logprob for a in chance.alternatives] == pytest.approx(values.tolist(), abs=1e-4)
        assert chance.token_id in order.tolist()


def test_no_alternatives_when_none_are_asked_for(workshop: Workshop) -> None:
    outputs = alone(workshop, request(workshop, "r", logprobs=0))
    assert all(len(o.logprobs) == 1 and o.logprobs[0].alternatives == () for o in outputs)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """With several, and without AVX-512, a row's place may decide which of PyTorch's kernels computes it, and so its bits.

    What holds in any place, where there is AVX-512, is in test_broken_adapters.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_huge_adapter_breaks_its_own_answers_alone(workshop: Workshop, adapters: list[AdapterRef]) -> None:
    huge = workshop.adapter(4, scale=1e30, targets=LINEARS)
    wanted = [request(workshop, "good", adapter=adapters[1], logprobs=3), request(workshop, "base", logprobs=3)]
    engine = workshop.engine()
    for beside in (*wanted, request(workshop, "huge", adapter=huge)):
        engine.submit(beside)
    found = drain(engine)
    error = found["huge"][-1].error
    assert isinstance(error, InvalidArgument)
    assert error.reason == Reason.ADAPTER_INVALID
    engine = workshop.engine()
    for beside in wanted:
        engine.submit(beside)
    quiet = drain(engine)
    assert [found[name] for name in ("good", "base")] == [quiet[name] for name in ("good", "base")]
    assert at_rest(engine)


def test_on_several_threads_too_what_is_in_an_adapter_changes_no_bit_of_others(tmp_path: Path) -> None:
    answers = []
    for scale, last in ((1e30, None), (1.0, FinishReason.LENGTH)):
        mine = make_workshop(tmp_path / f"{scale:g}")  # of its own, so that each row and adapter has the same place
        beside = request(mine, "other", adapter=mine.adapter(4, scale=scale, targets=LINEARS), max_tokens=1)
        good = request(mine, "good", adapter=mine.adapter(2, rank=2, targets=("q_proj",)), logprobs=3)
        engine = mine.engine()
        for one in (good, request(mine, "base", logprobs=3), beside):
            engine.submit(one)
        found = drain(engine)
        assert found["other"][-1].finish_reason is last
        answers.append([found[name] for name in ("good", "base")])
    assert answers[0] == answers[1]


def test_weights_that_are_not_numbers_never_reach_the_bank(workshop: Workshop) -> None:
    engine = workshop.engine()
    engine.submit(request(workshop, "nan", adapter=workshop.adapter(5, scale=math.inf)))
    (output,) = drain(engine)["nan"]
    assert isinstance(output.error, InvalidArgument)
    assert output.error.reason == Reason.ADAPTER_INVALID
    assert engine.usage.bank_rows_used == 0


def test_a_full_queue_is_busy_for_a_while(workshop: Workshop) -> None:
    engine = workshop.engine(max_running=1, max_waiting=1)
    engine.submit(request(workshop, "a"))
    engine.step()
    engine.submit(request(workshop, "b"))
    with pytest.raises(ResourceExhausted) as caught:
        engine.submit(request(workshop, "c"))
    assert caught.value.reason == Reason.ENGINE_BUSY
    assert caught.value.retry_after
    assert set(drain(engine)) == {"a", "b"}
    engine.submit(request(workshop, "c"))
    engine.submit(request(workshop, "d"))
    with pytest.raises(ResourceExhausted):
        engine.submit(request(workshop, "e"))


def test_when_to_come_again_is_worked_out_from_the_queue_and_the_speed(workshop: Workshop) -> None:
    clock = Clock()
    engine = workshop.engine(max_running=1, max_waiting=1, clock=clock)
    engine.submit(request(workshop, "a", max_tokens=30))
    engine.submit(request(workshop, "b", max_tokens=30))
    with pytest.raises(ResourceExhausted) as caught:
        engine.submit(request(workshop, "c"))
    assert caught.value.retry_after == 1.0  # nothing is known yet
    clock.ticks = 0.5
    engine.step()  # the prompt of five tokens in half a second
    with pytest.raises(ResourceExhausted) as caught:
        engine.submit(request(workshop, "c"))
    assert caught.value.retry_after == pytest.approx((29 + 35) / 10)


def test_one_tenants_flood_leaves_room_for_another(workshop: Workshop) -> None:
    engine = workshop.engine(max_running=1, max_waiting=9, tenant_room=4)
    with pytest.raises(ResourceExhausted):
        for number in range(10):
            engine.submit(request(workshop, f"flood-{number}", tenant="flood", max_tokens=2))
    engine.submit(request(workshop, "light", tenant="light", max_tokens=2))
    found = drain(engine)
    order = list(found)
    assert order.index("light") == 1


def test_cancelling_leaves_nothing_behind(workshop: Workshop, adapters: list[AdapterRef]) -> None:
    engine = workshop.engine(max_running=1)
    engine.submit(request(workshop, "runs", adapter=adapters[0]))
    engine.step()
    engine.step()
    engine.submit(request(workshop, "waits", adapter=adapters[1]))
    assert (engine.running, engine.waiting, engine.usage.pins) == (1, 1, 1)
    for name in ("runs", "waits", "unknown"):
        engine.cancel(name)
    assert at_rest(engine)
    assert engine.step() == []


def test_ended_requests_leave_nothing_behind(workshop: Workshop) -> None:
    engine = workshop.engine()
    engine.submit(request(workshop, "r"))
    drain(engine)
    assert at_rest(engine)
    engine.submit(request(workshop, "r"))


def test_after_a_broken_step_the_engine_is_empty(workshop: Workshop, adapters: list[AdapterRef]) -> None:
    engine = workshop.engine()
    engine.submit(request(workshop, "r", adapter=adapters[0]))
    engine.step()
    engine.step()
    engine.submit(request(workshop, "waits"))
    for output in engine.fail_all("It broke."):
        assert isinstance(output.error, InternalError)
        assert output.is_last
    assert at_rest(engine)


def test_a_deadline_ends_what_runs_and_what_waits(workshop: Workshop) -> None:
    clock = Clock()
    engine = workshop.engine(max_running=1, clock=clock)
    engine.submit(request(workshop, "runs", deadline=5.0))
    engine.submit(request(workshop, "waits", deadline=3.0))
    engine.submit(request(workshop, "patient"))
    assert engine.seconds_left == 3.0
    assert [output.request_id for output in engine.step()] == ["runs"]
    clock.now = 3.0
    first, *_ = engine.step()
    assert (first.request_id, first.is_last) == ("waits", True)
    assert isinstance(first.error, DeadlineExceeded)
    clock.now = 5.0
    first, *_ = engine.step()
    assert (first.request_id, first.completion_tokens) == ("runs", 2)
    assert engine.seconds_left is None
    assert drain(engine)["patient"][-1].finish_reason
    assert at_rest(engine)


def test_an_answer_of_a_format_is_one(workshop: Workshop) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    wanted = request(
        workshop, "r", sampling=Sampling(seed=3), max_tokens=60, n=2, response_format=ResponseFormat(json.dumps(schema))
    )
    outputs = alone(workshop, wanted)
    for index in range(2):
        assert json.loads(text_of([o for o in outputs if o.index == index]))["a"] in {1, 2}


def test_the_context_is_the_limit(workshop: Workshop) -> None:
    engine = workshop.engine()
    with pytest.raises(InvalidArgument) as caught:
        engine.submit(request(workshop, "r", "x" * 100, max_tokens=29))
    assert caught.value.reason == Reason.CONTEXT_EXCEEDED
    assert caught.value.metadata == {"prompt_tokens": "100", "context_length": "128"}
    outputs = alone(workshop, request(workshop, "r", "x" * 100, max_tokens=0, sampling=Sampling(top_k=1)))
    assert outputs[-1].completion_tokens <= 28
    with pytest.raises(InvalidArgument, match="do not fit"):
        engine.submit(request(workshop, "r", "x" * 128, max_tokens=0))
    assert not engine.has_work


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling": Sampling(temperature=-1)},
        {"sampling": Sampling(temperature=float("nan"))},
        {"sampling": Sampling(temperature=2.1)},
        {"sampling": Sampling(top_p=0)},
        {"sampling": Sampling(top_p=1.1)},
        {"sampling": Sampling(top_k=-1)},
        {"max_tokens": -1},
        {"stop": ("",)},
        {"stop": ("x" * 101,)},
        {"stop": ("x",) * 9},
        {"logprobs": 21},
        {"logprobs": -1},
        {"prompt_ids": ()},
        {"sampling": Sampling(min_p=1.5)},
        {"sampling": Sampling(repetition_penalty=0.0)},
        {"sampling": Sampling(presence_penalty=3.0)},
        {"n": 0},
        {"n": 9},
        {"weight": 0.0},
    ],
)
def test_wrong_fields_are_named(workshop: Workshop, fields: dict[str, object]) -> None:
    engine = workshop.engine()
    with pytest.raises(InvalidArgument) as caught:
        engine.submit(replace(request(workshop, "r"), **fields))
    assert caught.value.reason == Reason.INVALID_FIELD
    assert len(caught.value.violations) == 1
    assert not engine.has_work
