"""An hour of random traffic in half a minute: every request is answered or told why not, and nothing leaks."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final, TypeVar

import pytest
import torch
from peft import PeftModel
from tests.bench.serving_rig.registry import register
from tests.tiny_adapter import write_adapter
from tests.workshop import BANK_ROWS, BANK_SLOTS, KV_BLOCKS, Workshop, make_workshop
from transformers import AutoModelForCausalLM

from trellis.artifacts import MANIFEST_FILE, WEIGHTS_FILE
from trellis.engine import (
    AdapterRef,
    AdapterTiers,
    Engine,
    EngineLimits,
    EngineUsage,
    FinishReason,
    GrammarCompiler,
    Output,
    Request,
    ResponseFormat,
    Sampling,
)
from trellis.errors import Reason
from trellis.lora import HostAdapter
from trellis.serving.loop import EngineLoop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]
SEED: Final = os.environ.get("TRELLIS_SOAK_SEED", "17")
"""Other traffic each time: run it with another one."""
CLIENTS: Final = 16
CALLS: Final = 150
"""Of each client."""
FILES: Final = 8
"""Of weights; adapters share them and have digests of their own."""
REGISTERED: Final = 120
PROMPTS: Final = ("hello", "a rather longer prompt, to differ", "?", "0123456789 " * 4)
TOKENS: Final = 10
EXPECTED: Final = {
    Reason.ENGINE_BUSY,
    Reason.DEADLINE_EXCEEDED,
    Reason.RESOURCE_NOT_FOUND,
    Reason.ADAPTER_INVALID,
    Reason.CONTEXT_EXCEEDED,
}
"""Why a request may be refused here; INTERNAL is no answer to anything."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class House:
    """An engine on a thread of its own, with far more adapters than places, in memory as well as in the bank."""

    workshop: Workshop
    engine: Engine
    tiers: AdapterTiers
    loop: EngineLoop
    refs: Sequence[AdapterRef]
    """Adapter n has the weights of file n modulo FILES."""
    broken: Sequence[AdapterRef]
    """One that is not there, one whose file is another than its manifest says, and one with a digest of nothing."""
    answers: dict[tuple[int | None, str], list[int]]
    """PEFT's, greedy, by file of weights and prompt."""

    async def asked(self, question: Callable[[Engine], T]) -> T:
        """What the engine's own thread answers, after all that it was told before."""
        answer: Future[T] = Future()
        self.loop.tell(lambda engine: answer.set_result(question(engine)))
        return await asyncio.wrap_future(answer)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return make_workshop(tmp_path_factory.mktemp("soak"))


@pytest.fixture(scope="module")
def weights(workshop: Workshop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    for number in range(FILES):
        rank = (4, 8, 16)[number % 3]
        path = folder / f"{number}"
        write_adapter(path, workshop.facts, workshop.tokenizer.digest, seed=700 + number, rank=rank)
        (path / MANIFEST_FILE).unlink()
    return folder


@pytest.fixture
def house(workshop: Workshop, weights: Path) -> Iterator[House]:
    digest = workshop.tokenizer.digest
    refs = register(weights, REGISTERED + 1, workshop.facts.revision, digest, workshop.folder / "objects")
    runner = workshop.runner
    tiers_bytes = 12 * 8 * runner.bank.bytes_per_row
    with ThreadPoolExecutor(2) as threads:
        tiers = AdapterTiers(workshop.empty_bank(), workshop.loader.load, threads, tiers_bytes)
        limits = EngineLimits(
            max_running=6, max_waiting=10, tenant_room=3, step_tokens=24, fairness_window=80.0, loads_a_step=1
        )
        context, grammars = workshop.facts.context_length, GrammarCompiler(workshop.tokenizer)
        engine = Engine(runner, workshop.tokenizer, context, tiers, limits, monotonic, grammars)
        loop = EngineLoop(engine)
        loop.start()
        answers = dict(expected_answers(workshop, weights))
        yield House(workshop, engine, tiers, loop, refs[:-1], broken_ones(workshop, refs[-1]), answers)
        loop.stop()


def broken_ones(workshop: Workshop, other: AdapterRef) -> list[AdapterRef]:
    changed = workshop.folder / "objects" / other.key / WEIGHTS_FILE
    data = changed.read_bytes()
    changed.unlink()  # it is a link to the file of others
    changed.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return [AdapterRef("0" * 64, f"adapters/{'0' * 64}"), other, AdapterRef("f" * 64, other.key)]


def expected_answers(workshop: Workshop, weights: Path) -> Iterator[tuple[tuple[int | None, str], list[int]]]:
    for number in (None, *range(FILES)):
        model: Any = AutoModelForCausalLM.from_pretrained(workshop.facts.path)
        if number is not None:
            model = PeftModel.from_pretrained(model, str(weights / f"{number}"))
        for prompt in PROMPTS:
            ids = torch.tensor([workshop.tokenizer.encode_text(prompt)])
            said = model.eval().generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=TOKENS,
                eos_token_id=2,
                pad_token_id=0,
            )
            yield (number, prompt), said[0, ids.shape[1] :].tolist()


@dataclass
class Client:
    """Makes calls one after another, as its own dice say, and some at the same time."""

    house: House
    seed: str
    number: int
    outcomes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.chance = random.Random(f"{self.seed} {self.number}")
        self.calls = 0

    async def run(self) -> None:
        for _ in range(CALLS):
            act = self.chance.choices(
                (self.plain, self.fancy, self.leave, self.cancel, self.late, self.wrong, self.forget, self.burst),
                (30, 20, 12, 10, 6, 8, 8, 4),
            )[0]
            await act()

    async def plain(self) -> None:
        """A greedy answer, which must be PEFT's to the token."""
        adapter = self.chance.choice([None, self.chance.randrange(REGISTERED), self.chance.randrange(6)])
        prompt = self.chance.choice(PROMPTS)
        outputs = await self.answered(self.request(prompt, self.ref(adapter), sampling=Sampling(temperature=0.0)))
        if outputs[-1].error is None:
            said = [token for output in outputs for token in output.token_ids]
            assert said == self.house.answers[None if adapter is None else adapter % FILES, prompt]

    async def fancy(self) -> None:
        """One with several answers, stop strings, a format, probabilities or penalties."""
        chance = self.chance
        options: list[dict[str, Any]] = [
            {"n": chance.randint(2, 4)},
            {"stop": ("a", "zz")},
            {"logprobs": 3},
            {"response_format": ResponseFormat('{"type": "object"}')},
            {"sampling": Sampling(1.5, 0.9, 20, seed=chance.randrange(99), repetition_penalty=1.3)},
            {"max_tokens": chance.randint(1, 60)},
        ]
        chosen = {key: value for each in chance.sample(options, 2) for key, value in each.items()}
        request = self.request(chance.choice(PROMPTS), self.any(), **chosen)
        outputs = await self.answered(request)
        if outputs[-1].error is None:
            ended = [output.index for output in outputs if output.finish_reason is not None]
            assert sorted(ended) == list(range(request.n))

    async def leave(self) -> None:
        """The caller goes away after some pieces."""
        left = self.chance.randint(0, 6)
        request = self.request(self.chance.choice(PROMPTS), self.any(), max_tokens=60)
        async with aclosing(self.house.loop.stream(request)) as pieces:
            async for _ in pieces:
                left -= 1
                if left <= 0:
                    break
        self.outcomes["left"] += 1

    async def cancel(self) -> None:
        """The call is cancelled at any point, perhaps before it began."""
        request = self.request(self.chance.choice(PROMPTS), self.any(), max_tokens=60, n=2)
        call = asyncio.create_task(self.answered(request))
        for _ in range(self.chance.randint(0, 30)):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        self.outcomes["cancelled"] += 1

    async def late(self) -> None:
        """A deadline that may pass."""
        deadline = monotonic() + self.chance.uniform(0.0, 0.1)
        await self.answered(self.request(PROMPTS[1], self.any(), max_tokens=60, deadline=deadline))

    async def wrong(self) -> None:
        """An adapter that can't be loaded, or a prompt that does not fit."""
        if self.chance.random() < 0.3:
            outputs = await self.answered(self.request("x" * 200, None))
        else:
            outputs = await self.answered(self.request("hello", self.chance.choice(self.house.broken)))
        assert outputs[-1].error is not None

    async def forget(self) -> None:
        """An adapter is no longer deployed, or is deployed and fetched ahead."""
        ref = self.any()
        if self.chance.random() < 0.5:
            self.house.loop.tell(lambda _: self.house.tiers.forget(ref.digest))
        else:
            self.house.loop.tell(lambda _: self.house.tiers.fetch(ref))
        self.outcomes["adapters"] += 1

    async def burst(self) -> None:
        """More calls at once than there is room for."""
        await asyncio.gather(*(self.plain() for _ in range(10)))

    def any(self) -> AdapterRef:
        return self.chance.choice(self.house.refs)

    def ref(self, adapter: int | None) -> AdapterRef | None:
        return None if adapter is None else self.house.refs[adapter]

    def request(self, prompt: str, adapter: AdapterRef | None, **options: Any) -> Request:
        self.calls += 1
        ids = tuple(self.house.workshop.tokenizer.encode_text(prompt))
        tenant, weight = f"t{self.number % 5}", 1.0 + self.number % 5
        fields = {"tenant": tenant, "weight": weight, "max_tokens": TOKENS, **options}
        return Request(f"{self.number}-{self.calls}", ids, adapter, **fields)

    async def answered(self, request: Request) -> list[Output]:
        """The whole answer, which ends once and as it must."""
        outputs = [output async for output in self.house.loop.stream(request)]
        assert [output.is_last for output in outputs] == [False] * (len(outputs) - 1) + [True]
        assert {output.request_id for output in outputs} == {request.request_id}
        error = outputs[-1].error
        if error is None:
            assert outputs[-1].finish_reason in {FinishReason.STOP, FinishReason.LENGTH}
        else:
            assert error.reason in EXPECTED, error
        self.outcomes["answered" if error is None else error.reason] += 1
        return outputs


async def at_rest(house: House) -> EngineUsage:
    """When loads that nobody waits for any more have ended, too."""
    while (usage := await house.asked(lambda engine: engine.usage)).loading:
        await asyncio.sleep(0.01)
    return usage


def adapters_in_memory() -> list[HostAdapter]:
    gc.collect()
    return [found for found in gc.get_objects() if type(found) is HostAdapter]


def check_nothing_leaked(house: House, usage: EngineUsage, others: list[HostAdapter]) -> None:
    assert (usage.running, usage.waiting, usage.pins, usage.kv_blocks_used) == (0, 0, 0, 0)
    blocks = house.engine._blocks
    assert blocks.free + blocks.cached == KV_BLOCKS
    assert not any(blocks._references)
    assert not house.engine._answers
    assert not house.loop._listeners
    bank = house.workshop.runner.bank
    residents = house.tiers._residents.values()
    assert bank.slots_used == len(residents) <= BANK_SLOTS
    assert (
        usage.bank_rows_used == math.ceil(sum(resident.values for resident in residents) / bank.row_values) <= BANK_ROWS
    )
    held = {id(adapter) for adapter in (*house.tiers._host.values(), *others)}
    assert [adapter.digest for adapter in adapters_in_memory() if id(adapter) not in held] == []


@pytest.mark.parametrize("seed", [SEED])  # so that it is named when this fails
async def test_random_traffic_loses_and_leaks_nothing(house: House, seed: str) -> None:
    others = adapters_in_memory()  # of tests before this one
    clients = [Client(house, seed, number) for number in range(CLIENTS)]
    async with asyncio.timeout(240):
        await asyncio.gather(*(client.run() for client in clients))
        usage = await at_rest(house)
    outcomes = sum((client.outcomes for client in clients), Counter())
    check_nothing_leaked(house, usage, others)
    assert EXPECTED | {"answered", "left", "cancelled"} <= set(outcomes)
    assert outcomes["answered"] > 100
    async with asyncio.timeout(30):
        last = Client(house, seed, CLIENTS)
        for _ in range(10):
            await last.plain()
    assert last.outcomes == {"answered": 10}
