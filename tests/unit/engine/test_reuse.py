from __future__ import annotations

from dataclasses import replace

import pytest
from tests.engine_calls import alone, at_rest, drain, ids_of, request
from tests.workshop import Workshop

from trellis.engine import AdapterRef, Sampling


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


def test_several_answers_have_log_probabilities_of_their_own(workshop: Workshop, adapters: list[AdapterRef]) -> None:
    sampling = Sampling(seed=7, top_k=50, repetition_penalty=1.3)
    fields = {"logprobs": 3, "max_tokens": 8, "adapter": adapters[2]}
    outputs = alone(workshop, request(workshop, "r", sampling=sampling, n=3, **fields))
    chances = [[chance for o in outputs if o.index == index for chance in o.logprobs] for index in range(3)]
    assert len({tuple(chance.token_id for chance in mine) for mine in chances}) == 3, "the answers differ"
    for index, mine in enumerate(chances):
        seeded = alone(workshop, request(workshop, "r", sampling=replace(sampling, seed=7 + index), **fields))
        assert [chance.token_id for chance in mine] == ids_of(seeded)
        expected = [chance for o in seeded for chance in o.logprobs]
        for one, other in zip(mine, expected, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert [a.token_id for a in one.alternatives] == [a.token_id for a in other.alternatives]
            assert len(one.alternatives) == 3


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


def test_who_calls_anothers_adapter_takes_nothing_from_the_owners_calls(
    workshop: Workshop, adapters: list[AdapterRef]
) -> None:
    engine = workshop.engine()
    answers = {}
    for name, tenant in (("owner", "acme"), ("guest", "globex"), ("owner again", "acme"), ("guest again", "globex")):
        engine.submit(request(workshop, name, "v" * 40, tenant=tenant, adapter=adapters[0]))
        answers[name] = drain(engine)[name]
    cached = {name: outputs[-1].cached_prompt_tokens for name, outputs in answers.items()}
    assert cached == {"owner": 0, "guest": 0, "owner again": 32, "guest again": 32}
    assert ids_of(answers["owner"]) == ids_of(answers["guest"])


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
