from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import PeftModel
from tests.workshop import Workshop
from transformers import AutoModelForCausalLM

from trellis.engine import Engine, FinishReason, LoadedAdapter, LoraPair, Output, Request, Sampling
from trellis.errors import InternalError, InvalidArgument, Reason, ResourceExhausted

GREEDY = Sampling(temperature=0.0)
PROMPTS = ("hello", "a rather longer prompt, to differ", "?", "zwei Wörter", "0123456789 0123456789")


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


@pytest.fixture(scope="module")
def adapters(workshop: Workshop) -> list[LoadedAdapter]:
    linears = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return [
        workshop.adapter(1),
        workshop.adapter(2, rank=2, targets=("q_proj",)),
        workshop.adapter(3, rank=8, targets=linears),
    ]


@pytest.fixture(scope="module")
def references(workshop: Workshop, adapters: list[LoadedAdapter]) -> dict[tuple[int, str], list[int]]:
    """transformers' greedy tokens, by PEFT with each adapter alone (0 is the base)."""
    found = {}
    for number in range(4):
        model = AutoModelForCausalLM.from_pretrained(workshop.facts.path)
        if number:
            model = PeftModel.from_pretrained(model, str(workshop.adapter_folder(number)))
        model.eval()
        for prompt in PROMPTS:
            ids = torch.tensor([workshop.tokenizer.encode_text(prompt)])
            answer = model.generate(input_ids=ids, do_sample=False, max_new_tokens=12, eos_token_id=2, pad_token_id=0)
            found[number, prompt] = answer[0, ids.shape[1] :].tolist()
    return found


def test_adapters_differ_from_the_base(references: dict[tuple[int, str], list[int]]) -> None:
    assert len({tuple(references[number, "hello"]) for number in range(4)}) == 4


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_answer_is_what_peft_gives_alone(
    workshop: Workshop, adapters: list[LoadedAdapter], references: dict[tuple[int, str], list[int]], data: st.DataObject
) -> None:
    engine = workshop.engine(max_running=3, max_waiting=64, max_prompt_tokens=16)
    plan = data.draw(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(PROMPTS), st.integers(0, 3)), max_size=8))
    found: dict[str, list[Output]] = {}
    for number, (which, prompt, steps) in enumerate(plan):
        adapter = adapters[which - 1] if which else None
        engine.submit(request(workshop, str(number), prompt, adapter=adapter))
        for _ in range(steps):
            gather(found, engine.step())
    for name, outputs in drain(engine).items():
        gather(found, outputs)
        assert outputs[-1].is_last, name
    for number, (which, prompt, _) in enumerate(plan):
        assert ids_of(found[str(number)]) == references[which, prompt]


def test_requests_take_turns(workshop: Workshop, adapters: list[LoadedAdapter]) -> None:
    engine = workshop.engine()
    engine.submit(request(workshop, "long", max_tokens=20, adapter=adapters[0]))
    engine.step()
    engine.submit(request(workshop, "short", max_tokens=2, adapter=adapters[1]))
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


def test_the_same_seed_gives_the_same_answer_beside_others(workshop: Workshop, adapters: list[LoadedAdapter]) -> None:
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


def test_a_broken_adapter_breaks_its_own_answers_alone(workshop: Workshop, adapters: list[LoadedAdapter]) -> None:
    pair = adapters[0].pairs["model.layers.0.self_attn.q_proj"]
    broken = LoadedAdapter("f" * 64, {"model.layers.0.self_attn.q_proj": LoraPair(pair.a_RI * torch.nan, pair.b_OR, 1)})
    engine = workshop.engine()
    engine.submit(request(workshop, "broken", adapter=broken))
    engine.submit(request(workshop, "good", adapter=adapters[1]))
    engine.submit(request(workshop, "base"))
    found = drain(engine)
    error = found["broken"][-1].error
    assert isinstance(error, InvalidArgument)
    assert error.reason == Reason.ADAPTER_INVALID
    assert ids_of(found["good"]) == ids_of(alone(workshop, request(workshop, "good", adapter=adapters[1])))
    assert ids_of(found["base"]) == ids_of(alone(workshop, request(workshop, "base")))


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


def test_cancelling_leaves_nothing_behind(workshop: Workshop) -> None:
    engine = workshop.engine(max_running=1)
    engine.submit(request(workshop, "runs"))
    engine.submit(request(workshop, "waits"))
    engine.step()
    for name in ("runs", "waits", "unknown"):
        engine.cancel(name)
    assert not engine.has_work
    assert (engine.running, engine.waiting) == (0, 0)
    assert engine.step() == []


def test_ended_requests_leave_nothing_behind(workshop: Workshop) -> None:
    engine = workshop.engine()
    engine.submit(request(workshop, "r"))
    drain(engine)
    assert (engine.running, engine.waiting) == (0, 0)
    engine.submit(request(workshop, "r"))


def test_after_a_broken_step_the_engine_is_empty(workshop: Workshop) -> None:
    engine = workshop.engine()
    engine.submit(request(workshop, "r"))
    (output,) = engine.fail_all("It broke.")
    assert isinstance(output.error, InternalError)
    assert not engine.has_work


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
    ],
)
def test_wrong_fields_are_named(workshop: Workshop, fields: dict[str, object]) -> None:
    engine = workshop.engine()
    with pytest.raises(InvalidArgument) as caught:
        engine.submit(replace(request(workshop, "r"), **fields))
    assert caught.value.reason == Reason.INVALID_FIELD
    assert len(caught.value.violations) == 1
    assert not engine.has_work
