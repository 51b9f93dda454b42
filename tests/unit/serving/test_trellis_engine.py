from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.workshop import Workshop, make_workshop

from trellis.engine import AdapterRef, Output, Request, ResponseFormat, Sampling
from trellis.engine_options import EngineOptions
from trellis.errors import Reason
from trellis.serving.config import EngineConfig
from trellis.serving.metrics import EngineMetrics
from trellis.serving.trellis_engine import TrellisEngine

Start = Callable[..., TrellisEngine]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("trellis-engine"))


@pytest.fixture
def start(workshop: Workshop) -> Iterator[Start]:
    started: list[TrellisEngine] = []

    def make(**options: int) -> TrellisEngine:
        config = EngineConfig(
            "baseModels/tiny", "", "", "", workshop.store.url, "", EngineOptions(kv_bytes=4 << 20, **options)
        )
        started.append(TrellisEngine(config, workshop.facts, workshop.tokenizer, EngineMetrics()))
        started[-1].start()
        return started[-1]

    yield make
    for engine in started:
        engine.stop()


async def holds(engine: TrellisEngine, wanted: list[AdapterRef], expected: list[AdapterRef]) -> None:
    digests = {ref.digest for ref in expected}
    async with asyncio.timeout(60):
        while engine.usage().loading or set(engine.usage().host_digests) != digests:
            engine.want(wanted)
            await asyncio.sleep(0.01)


async def said(engine: TrellisEngine, request: Request) -> list[Output]:
    return [output async for output in engine.stream(request)]


async def test_what_is_wanted_is_fetched_before_it_is_called_and_forgotten_when_it_is_not(
    start: Start, workshop: Workshop
) -> None:
    engine = start()
    refs = [workshop.adapter(seed) for seed in range(1, 8)]
    await holds(engine, refs, refs)
    request = Request("r", (5, 6), refs[0], sampling=Sampling(temperature=0.0), max_tokens=4)
    assert (await said(engine, request))[-1].error is None
    assert engine.usage().resident_digests == (refs[0].digest,)
    await holds(engine, refs[1:], refs[1:])
    assert engine.usage().resident_digests == (), "from the bank, too"
    await holds(engine, [], [])


async def test_what_is_broken_is_tried_once_and_holds_nothing_up(start: Start, workshop: Workshop) -> None:
    engine = start()
    missing = [AdapterRef(f"{n:064x}", "adapters/none") for n in range(6)]
    refs = [workshop.adapter(seed) for seed in range(1, 3)]
    await holds(engine, [*missing, *refs], refs)


async def test_nothing_is_fetched_ahead_that_would_push_out_what_is_there(start: Start, workshop: Workshop) -> None:
    refs = [workshop.adapter(seed) for seed in range(1, 8)]
    roomy = start()
    await holds(roomy, refs[:1], refs[:1])
    engine = start(host_bytes=int(roomy._tiers.host_bytes * 2.5))
    await holds(engine, refs[:2], refs[:2])
    for _ in range(20):
        engine.want(refs)
        await asyncio.sleep(0.01)
    assert len(engine.usage().host_digests) <= 3
    request = Request("r", (5, 6), refs[6], sampling=Sampling(temperature=0.0), max_tokens=4)
    assert (await said(engine, request))[-1].error is None, "what is called is loaded in any case"


async def test_a_schema_that_cant_be_followed_is_the_requests_error(start: Start) -> None:
    engine = start()
    request = Request("r", (5, 6), sampling=Sampling(temperature=0.0), max_tokens=4)
    wrong = Request("w", (5, 6), max_tokens=4, response_format=ResponseFormat("[]"))
    (output,) = await said(engine, wrong)
    assert output.error is not None
    assert (output.error.reason, output.is_last) == (Reason.INVALID_FIELD, True)
    assert (await said(engine, request))[-1].error is None
    right = Request("y", (5, 6), max_tokens=40, response_format=ResponseFormat('{"enum": ["yes", "no"]}'))
    text = "".join(output.text for output in await said(engine, right))
    assert text in {'"yes"', '"no"'}


def test_the_cache_has_the_size_that_was_asked_for(start: Start, tmp_path: Path) -> None:
    usage = start().usage()
    tokens = usage.kv_blocks * usage.kv_block_tokens
    assert tokens * 2 * 2 * 16 * 4 <= 4 << 20, "two layers of one head of 16, keys and values in fp32"
    assert tokens > 10_000
