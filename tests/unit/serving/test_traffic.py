"""Random traffic of many tenants through the engine's own thread: everything ends, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import pytest
from tests.workshop import Workshop, make_workshop

from trellis.engine import AdapterRef, Output, Request, ResponseFormat, Sampling
from trellis.errors import Reason
from trellis.serving.loop import EngineLoop

TENANTS = 12
CALLS = 15
EXPECTED = {Reason.ENGINE_BUSY, Reason.DEADLINE_EXCEEDED, Reason.RESOURCE_NOT_FOUND, Reason.ADAPTER_INVALID}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("traffic"))


@pytest.fixture(scope="module")
def adapters(workshop: Workshop) -> list[AdapterRef | None]:
    made = [workshop.adapter(seed, rank=(2, 4, 8, 16)[seed % 4]) for seed in range(9)]
    broken = workshop.adapter(9, base_revision="sha256:other")
    return [None, AdapterRef("a" * 64, "adapters/none"), broken, *made]


def random_request(dice: random.Random, name: str, workshop: Workshop, adapters: list[AdapterRef | None]) -> Request:
    prompt = dice.choice(["a prefix that many share, ", "", "x" * 40]) + str(dice.random())
    return Request(
        name,
        tuple(workshop.tokenizer.encode_text(prompt)),
        dice.choice(adapters),
        tenant=name.partition("-")[0],
        weight=dice.choice([0.5, 1.0, 2.0]),
        sampling=Sampling(temperature=dice.choice([0.0, 1.0]), seed=dice.choice([None, 3])),
        max_tokens=dice.randint(1, 20),
        n=dice.choice([1, 1, 3]),
        deadline=time.monotonic() + dice.choice([0.03, 60.0]) if dice.random() < 0.3 else None,
        response_format=ResponseFormat() if dice.random() < 0.1 else None,
    )


async def call(loop: EngineLoop, request: Request, most: int) -> Output | None:
    """The last piece of the answer; None for a caller who left after `most` of them."""
    async with aclosing(loop.stream(request)) as outputs:
        async for output in outputs:
            most -= 1
            if output.is_last:
                return output
            if most == 0:
                return None
    pytest.fail("the stream ended without a last piece")


async def test_everything_ends_and_nothing_is_left_behind(
    workshop: Workshop, adapters: list[AdapterRef | None]
) -> None:
    seen: Counter[str] = Counter()
    with ThreadPoolExecutor(2) as threads:
        engine = workshop.engine(executor=threads, max_running=6, max_waiting=12)
        loop = EngineLoop(engine)
        loop.start()

        async def tenant(number: int) -> None:
            dice = random.Random(number)
            for count in range(CALLS):
                request = random_request(dice, f"{number}-{count}", workshop, adapters)
                last = await call(loop, request, dice.choice([1, 5, 1000, 1000]))
                if last is None:
                    seen["left"] += 1
                elif last.error is None:
                    seen["answered"] += 1
                else:
                    assert last.error.reason in EXPECTED, last.error
                    seen[last.error.reason] += 1

        async with asyncio.timeout(100):
            await asyncio.gather(*(tenant(number) for number in range(TENANTS)))
            while engine.has_work or engine.usage.loading:
                await asyncio.sleep(0.01)
        assert loop.is_alive
        loop.stop()
    usage = engine.usage
    assert (usage.running, usage.waiting, usage.kv_blocks_used, usage.pins) == (0, 0, 0, 0)
    assert (engine._answers, loop._listeners) == ({}, {})
    assert seen.total() == TENANTS * CALLS
    assert seen["answered"]
    assert seen["left"]
