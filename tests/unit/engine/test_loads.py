from __future__ import annotations

from tests.engine_calls import Clock, at_rest, drain, request
from tests.tiny_bank import Held
from tests.workshop import Workshop

from trellis.artifacts import WEIGHTS_FILE
from trellis.engine import AdapterRef
from trellis.errors import (
    DeadlineExceeded,
    NotFound,
)


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
