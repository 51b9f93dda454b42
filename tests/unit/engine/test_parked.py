"""Answers that are parked in an engine with a model: whatever ends answers ends these, and they share what they have."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.workshop import BANK_SLOTS, Workshop

from trellis.engine import AdapterRef, Engine, Output, Request, Sampling
from trellis.errors import DeadlineExceeded, InternalError

PROMPT = "a prompt of several blocks, so that there is something to share"


@pytest.fixture(scope="module")
def adapters(workshop: Workshop) -> list[AdapterRef]:
    return [workshop.adapter(500 + number) for number in range(BANK_SLOTS + 2)]


def request(workshop: Workshop, name: str, adapter: AdapterRef | None, **fields: object) -> Request:
    ids = tuple(workshop.tokenizer.encode_text(PROMPT))
    return Request(name, ids, adapter, **{"sampling": Sampling(temperature=1.0, seed=1), "max_tokens": 30, **fields})


def crowd(workshop: Workshop, adapters: list[AdapterRef], clock: Callable[[], float] = lambda: 0.0) -> Engine:
    """An engine in which one answer an adapter runs, and two of them are parked."""
    engine = workshop.engine(turn_steps=8, clock=clock)
    for number, adapter in enumerate(adapters):
        engine.submit(request(workshop, str(number), adapter, deadline=100.0 + number))
    while engine.usage.parked < len(adapters) - BANK_SLOTS:
        assert engine.has_work
        engine.step()
    assert (engine.running, engine.waiting, engine.usage.pins) == (len(adapters), 0, len(adapters))
    return engine


def parked(engine: Engine) -> list[str]:
    return [name for name, answers in engine._answers.items() if any(s.is_parked for s in answers.sequences)]


def finish(engine: Engine) -> dict[str, list[Output]]:
    found: dict[str, list[Output]] = {}
    while engine.has_work:
        for output in engine.step():
            found.setdefault(output.request_id, []).append(output)
    usage = engine.usage
    held = (usage.running, usage.parked, usage.waiting, usage.kv_blocks_used, usage.pins)
    assert held == (0, 0, 0, 0, 0)
    assert not engine._scheduler._turns.wanted
    return found


def test_they_can_be_cancelled(workshop: Workshop, adapters: list[AdapterRef]) -> None:
    engine = crowd(workshop, adapters)
    gone = parked(engine)
    for name in gone:
        engine.cancel(name)
    assert (engine.usage.parked, engine.usage.pins) == (0, BANK_SLOTS)
    assert set(finish(engine)) == {str(number) for number in range(len(adapters))} - set(gone)


def test_their_deadlines_hold(workshop: Workshop, adapters: list[AdapterRef]) -> None:
    now = 0.0
    engine = crowd(workshop, adapters, clock=lambda: now)
    late = parked(engine)
    now = 200.0
    outputs = {output.request_id: output for output in engine.step()}
    assert all(isinstance(outputs[name].error, DeadlineExceeded) for name in late)
    finish(engine)


def test_they_end_with_a_step_that_broke(workshop: Workshop, adapters: list[AdapterRef]) -> None:
    engine = crowd(workshop, adapters)
    outputs = engine.fail_all("It broke.")
    assert len(outputs) == len(adapters)
    assert all(isinstance(output.error, InternalError) and output.is_last for output in outputs)
    finish(engine)


def test_they_go_on_though_their_adapter_is_not_called_any_more(workshop: Workshop, adapters: list[AdapterRef]) -> None:
    engine = crowd(workshop, adapters)
    for adapter in adapters:
        engine._tiers.forget(adapter.digest)
    found = finish(engine)
    assert all(outputs[-1].finish_reason for outputs in found.values())
    assert engine._tiers.loading == 0


def test_several_answers_to_a_prompt_are_parked_and_go_on_together(
    workshop: Workshop, adapters: list[AdapterRef]
) -> None:
    alone = workshop.engine()
    alone.submit(request(workshop, "0", adapters[0], n=3))
    expected = finish(alone)["0"]
    engine = workshop.engine(turn_steps=2)
    for number, adapter in enumerate(adapters):
        engine.submit(request(workshop, str(number), adapter, n=3))
    most = 0
    told: list[Output] = []
    while engine.has_work:
        told += [output for output in engine.step() if output.request_id == "0"]
        most = max(most, sum(s.is_parked for a in engine._answers.values() for s in a.sequences if a.request.n == 3))
    assert most > 3
    for index in range(3):
        mine, wanted = ([o.token_ids for o in outputs if o.index == index] for outputs in (told, expected))
        assert mine == wanted
    finish(engine)


def test_what_they_computed_is_others_to_use(workshop: Workshop, adapters: list[AdapterRef]) -> None:
    engine = crowd(workshop, adapters)
    name = parked(engine)[0]
    engine.submit(request(workshop, "again", adapters[int(name)], max_tokens=2))
    assert finish(engine)["again"][-1].cached_prompt_tokens >= 56
