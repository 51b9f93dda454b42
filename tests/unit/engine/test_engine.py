from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from tests.tiny_bank import Held
from tests.workshop import Workshop
from transformers import AutoModelForCausalLM

from trellis.artifacts import WEIGHTS_FILE
from trellis.engine import AdapterRef, Engine, FinishReason, Output, Request, ResponseFormat, Sampling
from trellis.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    NotFound,
    Reason,
    ResourceExhausted,
    Unavailable,
)

GREEDY = Sampling(temperature=0.0)
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def request(workshop: Workshop, name: str, prompt: str = "hello", **fields: object) -> Request:
    ids = tuple(workshop.tokenizer.encode_text(prompt))
    return Request(name, ids, **{"sampling": GREEDY, "max_tokens": 12, **fields})


def drain(engine: Engine) -> dict[str, list[Output]]:
    found: dict[str, list[Output]] = {}
    while engine.has_work:
        gather(found, engine.step())
    return found


def gather(found: dict[str, list[Output]], outputs: Iterable[Output]) -> None:
    for output in outputs:
        found.setdefault(output.request_id, []).append(output)


def ids_of(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def text_of(outputs: list[Output]) -> str:
    return "".join(output.text for output in outputs)


def alone(workshop: Workshop, wanted: Request) -> list[Output]:
    engine = workshop.engine()
    engine.submit(wanted)
    return drain(engine)[wanted.request_id]


class Clock:
    """Says what it is told to, and goes on by `ticks` each time that it is asked."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ticks = 0.0

    def __call__(self) -> float:
        self.now += self.ticks
        return self.now


@pytest.fixture(scope="module")
def adapters(workshop: Workshop) -> list[AdapterRef]:
    return [
        workshop.adapter(1),
        workshop.adapter(2, rank=2, targets=("q_proj",)),
        workshop.adapter(3, rank=8, targets=LINEARS),
    ]


def at_rest(engine: Engine) -> bool:
    """Whether nothing is held for anybody."""
    usage = engine.usage
    held = (usage.running, usage.waiting, usage.kv_blocks_used, usage.pins)
    return not engine.has_work and held == (0, 0, 0, 0)


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


def test_an_engine_that_drains_ends_what_it_took_on(workshop: Workshop) -> None:
    engine = workshop.engine(max_running=1)
    engine.submit(request(workshop, "runs"))
    engine.submit(request(workshop, "waits"))
    engine.step()
    engine.drain()
    with pytest.raises(Unavailable) as caught:
        engine.submit(request(workshop, "late"))
    assert caught.value.retry_after
    assert engine.usage.draining
    assert all(outputs[-1].finish_reason for outputs in drain(engine).values())


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


def test_several_answers_to_one_prompt_are_those_of_the_next_seeds(workshop: Workshop) -> None:
    fields = {"prompt": "a prompt of some length", "max_tokens": 9}
    sampling = Sampling(seed=40)
    outputs = alone(workshop, request(workshop, "r", sampling=sampling, n=3, **fields))
    for index in range(3):
        mine = [output for output in outputs if output.index == index]
        seeded = replace(sampling, seed=40 + index)
        assert ids_of(mine) == ids_of(alone(workshop, request(workshop, "r", sampling=seeded, **fields)))
        assert mine[-1].finish_reason
    assert [output.is_last for output in outputs] == [False] * (len(outputs) - 1) + [True]
    assert (outputs[-1].prompt_tokens, outputs[-1].completion_tokens) == (23, len(ids_of(outputs)))


def test_the_prompt_of_several_answers_is_computed_once(workshop: Workshop) -> None:
    engine = workshop.engine()
    engine.submit(request(workshop, "r", "x" * 33, n=4, max_tokens=4))
    engine.step()
    assert (engine.running, engine.waiting) == (1, 3)
    engine.step()
    assert engine.usage.kv_blocks_used == 4 + 4
    engine.cancel("r")
    assert at_rest(engine)


def test_a_prompt_is_remembered_for_the_same_tenant_and_adapter(workshop: Workshop, adapters: list[AdapterRef]) -> None:
    engine = workshop.engine()
    prompt = "y" * 40
    answers = {}
    for name, fields in {
        "first": {"tenant": "a"},
        "again": {"tenant": "a"},
        "other tenant": {"tenant": "b"},
        "adapter": {"tenant": "a", "adapter": adapters[0]},
        "adapter again": {"tenant": "a", "adapter": adapters[0]},
        "other adapter": {"tenant": "a", "adapter": adapters[1]},
    }.items():
        engine.submit(request(workshop, name, prompt, **fields))
        answers[name] = drain(engine)[name]
    cached = {name: outputs[-1].cached_prompt_tokens for name, outputs in answers.items()}
    assert cached == {
        "first": 0,
        "again": 32,
        "other tenant": 0,
        "adapter": 0,
        "adapter again": 32,
        "other adapter": 0,
    }
    assert ids_of(answers["first"]) == ids_of(answers["again"]) == ids_of(answers["other tenant"])
    assert ids_of(answers["adapter"]) == ids_of(answers["adapter again"])
    assert engine.usage.kv_blocks_cached > 0


def test_two_tenants_with_one_prompt_share_no_block(workshop: Workshop) -> None:
    engine = workshop.engine()
    for round_ in range(2):  # the second time both have cached prefixes
        for tenant in "abc":
            engine.submit(request(workshop, f"{tenant}{round_}", "z" * 40, tenant=tenant))
        engine.step()
        engine.step()
        held = [set(s.table.blocks) for a in engine._answers.values() for s in a.sequences if s.table is not None]
        assert len(held) == 3
        assert len(set.union(*held)) == sum(len(blocks) for blocks in held)
        drain(engine)


def test_a_retrained_alias_is_answered_by_the_new_weights(workshop: Workshop, adapters: list[AdapterRef]) -> None:
    prompt = "w" * 40
    order = (adapters[0], adapters[2], adapters[0])
    expected = [ids_of(alone(workshop, request(workshop, "r", prompt, adapter=adapter))) for adapter in order]
    assert expected[0] != expected[1]
    engine = workshop.engine()
    for adapter, answer in zip(order, expected, strict=True):
        engine.submit(request(workshop, "r", prompt, adapter=adapter))
        outputs = drain(engine)["r"]
        assert ids_of(outputs) == answer
    assert outputs[-1].cached_prompt_tokens == 32


def test_who_waits_for_a_load_holds_up_nobody_and_is_not_polled_for(
    workshop: Workshop, adapters: list[AdapterRef]
) -> None:
    held, woken = Held(), []
    engine = workshop.engine(executor=held)
    engine.notify(lambda: woken.append(None))
    engine.submit(request(workshop, "adapter", adapter=adapters[0]))
    assert engine.can_step
    assert engine.step() == []
    assert not engine.can_step
    assert engine.has_work
    engine.submit(request(workshop, "base", max_tokens=3))
    assert [output.request_id for output in (*engine.step(), *engine.step(), *engine.step())] == ["base"] * 3
    assert not engine.step()
    assert not engine.can_step
    held.release()
    assert woken == [None]
    assert engine.can_step
    assert [output.request_id for output in engine.step()] == ["adapter"]
    engine.cancel("adapter")
    assert at_rest(engine)


def test_a_deadline_ends_the_wait_for_a_load(workshop: Workshop, adapters: list[AdapterRef]) -> None:
    clock = Clock()
    held = Held()
    engine = workshop.engine(executor=held, clock=clock)
    engine.submit(request(workshop, "r", adapter=adapters[0], deadline=2.0))
    engine.step()
    assert not engine.can_step
    clock.now = 2.0
    assert engine.can_step
    (output,) = engine.step()
    assert isinstance(output.error, DeadlineExceeded)
    held.release()
    assert engine.can_step  # takes the load in, for the next one
    engine.step()
    assert (engine.can_step, engine.usage.loading, len(engine.usage.host_digests)) == (False, 0, 1)


def test_a_failed_load_ends_those_who_wait_for_it_and_is_tried_again(workshop: Workshop) -> None:
    ref = workshop.adapter(6)
    weights = f"{ref.key}/{WEIGHTS_FILE}"
    data = workshop.store.read_bytes(weights)
    workshop.store.delete(weights)
    engine = workshop.engine()
    for name in ("a", "b"):
        engine.submit(request(workshop, name, adapter=ref))
    engine.submit(request(workshop, "base"))
    found = drain(engine)
    assert all(isinstance(found[name][-1].error, NotFound) for name in ("a", "b"))
    assert found["base"][-1].error is None
    workshop.store.put_bytes(weights, data)
    engine.submit(request(workshop, "c", adapter=ref))
    assert drain(engine)["c"][-1].finish_reason
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
