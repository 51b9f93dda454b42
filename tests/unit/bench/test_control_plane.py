"""The parts of the control plane's benchmark that need no server."""

import asyncio
import json

import pytest
from tests.bench.control_rig.claims import EXPECTED
from tests.bench.control_rig.load import Numbers, Timing, measure, percentile, together
from tests.bench.control_rig.page import Latency, page
from tests.bench.report import Machine, Row, Sheet


async def test_so_many_callers_call_until_the_time_is_over() -> None:
    running, most, seen = 0, 0, []

    async def call(number: int) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        seen.append(number)
        await asyncio.sleep(0.001)
        running -= 1

    timing = await measure(call, 5, 0.05, Numbers())
    assert (most, sorted(seen)) == (5, list(range(1, len(seen) + 1)))
    assert len(timing.seconds) == len(seen)
    assert timing.calls_per_second == pytest.approx(len(seen) / 0.05, rel=0.5)
    assert 1 <= timing.p50_ms <= timing.p99_ms


async def test_a_call_that_fails_is_no_fast_one() -> None:
    async def call(_: int) -> None:
        raise ValueError("no")

    with pytest.raises(ExceptionGroup):
        await measure(call, 2, 0.05, Numbers())


def test_rounds_together() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    whole = together([Timing(10.0, (0.1,)), Timing(30.0, (0.3, 0.2)), Timing(20.0, (0.4,))])
    assert (whole.calls_per_second, len(whole.seconds)) == (20.0, 4)
    assert whole.p50_ms == pytest.approx(250)


def test_the_page_has_what_was_expected_and_what_came() -> None:
    machine = Machine("a processor", 2, 8.0, "", "Linux", 0.1)
    rows = [Row("get_job_16", 300.0, "calls/s", "empty grpc.aio handler", 2000.0)]
    sheet = Sheet("control plane", "2026-01-01", False, machine, {"python": "3"}, {"rows": "10"}, rows)
    text = page(sheet, {"get_job_16": Latency("get_job_16", 16, Timing(300.0, (0.05,)))}, "command")
    assert all(f"`{name}`: {why}" in text for name, why in EXPECTED.items())
    assert "| `get_job_16` | 300 | calls/s | empty grpc.aio handler | 2000 | 0.15 |" in text
    assert "| get_job_16 | 16 | 300 | 50.0 | 50.0 |" in text
    assert json.loads(sheet.to_json())["rows"][0]["ratio"] == 0.15
