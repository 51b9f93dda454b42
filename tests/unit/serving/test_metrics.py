from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, strategies as st
from ray.serve import metrics

from trellis.engine import EngineUsage, Output, TierEvent
from trellis.errors import InternalError, Reason
from trellis.serving.metrics import EngineMetrics, RequestMeter
from trellis.serving.tenant_labels import OTHER, TenantLabels


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Recorded:
    """What Ray's metrics are told, by name and tags."""

    def __init__(self) -> None:
        self.totals: Counter[tuple[str, ...]] = Counter()
        self.seen: dict[str, list[float]] = {}
        self.levels: dict[str, float] = {}

    def counter(self, name: str, _said: str = "", tag_keys: tuple[str, ...] = ()) -> Any:
        recorded = self

        class Told:
            def inc(self, value: float = 1, tags: dict[str, str] | None = None) -> None:
                assert set(tags or {}) == set(tag_keys)
                recorded.totals[name, *(tags[key] for key in tag_keys if tags)] += int(value)

        return Told()

    def histogram(self, name: str, _said: str = "", boundaries: Any = ()) -> Any:
        recorded = self

        class Told:
            def observe(self, value: float) -> None:
                recorded.seen.setdefault(name, []).append(round(value, 6))

        return Told()

    def gauge(self, name: str, _said: str = "") -> Any:
        recorded = self

        class Told:
            def set(self, value: float) -> None:
                recorded.levels[name] = value

        return Told()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    found = Recorded()
    monkeypatch.setattr(metrics, "Counter", found.counter)
    monkeypatch.setattr(metrics, "Histogram", found.histogram)
    monkeypatch.setattr(metrics, "Gauge", found.gauge)
    return found


def piece(completion: int, prompt: int = 7, cached: int = 0) -> Output:
    return Output("r", token_ids=(1,), prompt_tokens=prompt, cached_prompt_tokens=cached, completion_tokens=completion)


def test_a_request_is_counted_while_it_goes_on(recorded: Recorded) -> None:
    clock = Clock()
    told = EngineMetrics(clock)
    told.labels = TenantLabels(worth=1)
    meter = RequestMeter(told, clock, portion=4)
    meter.begin("acme")
    clock.now += 0.5
    meter.see(piece(1, cached=5))
    assert recorded.seen["trellis_engine_first_token_seconds"] == [0.5]
    assert recorded.totals["trellis_engine_tokens", "prompt"] == 7
    for completion in range(2, 7):
        clock.now += 0.02
        meter.see(piece(completion, cached=5))
    assert recorded.totals["trellis_engine_tokens", "completion"] == 5, "in portions"
    meter.end("STOP")
    kinds = {"prompt": 7, "cached": 5, "completion": 6}
    assert {kind: recorded.totals["trellis_engine_tokens", kind] for kind in kinds} == kinds
    assert {kind: recorded.totals["trellis_engine_tenant_tokens", "acme", kind] for kind in kinds} == kinds
    assert recorded.seen["trellis_engine_next_token_seconds"] == [0.02]
    assert recorded.totals["trellis_engine_requests", "STOP"] == 1


def test_what_was_refused_or_failed_has_read_no_token(recorded: Recorded) -> None:
    meter = RequestMeter(EngineMetrics())
    meter.begin("acme")
    meter.see(Output("r", error=InternalError(Reason.INTERNAL, "No."), prompt_tokens=7, is_last=True))
    meter.end("ENGINE_BUSY")
    assert recorded.totals == {("trellis_engine_requests", "ENGINE_BUSY"): 1}
    assert recorded.seen == {}


def usage(running: int) -> EngineUsage:
    return EngineUsage(running, 2, 10, 4, 3, 16, 64, 24, 1, 5, ("a", "b"), ("a", "b", "c"), 123.0)


def test_the_gauges_are_looked_at_once_a_second(recorded: Recorded) -> None:
    clock = Clock()
    told = EngineMetrics(clock)
    for running in range(5):
        told.look(lambda running=running: usage(running))
        clock.now += 0.4
    assert recorded.levels["trellis_engine_running_requests"] == 3
    assert recorded.levels["trellis_engine_kv_blocks_free"] == 3
    assert recorded.levels["trellis_engine_host_adapters"] == 3


def test_events_and_steps_are_counted(recorded: Recorded) -> None:
    told = EngineMetrics()
    for event in (TierEvent.FETCHED, TierEvent.COPIED, TierEvent.COPIED):
        told.count_event(event)
    told.count_step(answers=3, tokens=40)
    assert recorded.totals["trellis_engine_adapter_events", "copied"] == 2
    assert recorded.seen == {"trellis_engine_step_answers": [3], "trellis_engine_step_tokens": [40]}


def test_the_busiest_tenants_have_names() -> None:
    labels = TenantLabels(labels=2, worth=100)
    assert [labels.of("a", 60) for _ in range(3)] == [OTHER, "a", "a"]
    assert labels.of("b", 99) == OTHER
    assert labels.of("c", 200) == "c"
    assert [labels.of("b", 500), labels.of("a", 1), labels.of("c", 1)] == [OTHER, "a", "c"]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 50)), max_size=300))
def test_labels_and_what_is_remembered_are_bounded(traffic: list[tuple[int, int]]) -> None:
    labels = TenantLabels(labels=3, worth=60)
    given = {labels.of(f"t{tenant}", tokens) for tenant, tokens in traffic}
    assert len(given - {OTHER}) <= 3
    assert len(labels._counts) <= 12


def test_a_tenant_with_much_is_named_among_many_with_little() -> None:
    labels = TenantLabels(labels=3, worth=5000)
    for n in range(2000):
        labels.of(f"passer-by-{n}", 1)
        found = labels.of("busy", 10)
    assert found == "busy"
