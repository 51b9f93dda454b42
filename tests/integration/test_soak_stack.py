"""Random calls to a whole Trellis while adapters come and go and its engine is killed: nothing is lost without a word."""

from __future__ import annotations

import asyncio
import math
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio
from tests.bench.private_stack import PrivateStack, private_stack
from tests.tiny_adapter import write_adapter

import trellis
from trellis.artifacts import MANIFEST_FILE
from trellis.bases import read_base
from trellis.client.types import FinishReason
from trellis.errors import Reason, TrellisError, Unavailable
from trellis.local.processes import marked_pids
from trellis.local.stack import DEFAULT_BASE
from trellis.tokens import ChatTokenizer
from trellis.v1.engine_pb2 import GetEngineStatusResponse

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(290)]
SEED: Final = os.environ.get("TRELLIS_SOAK_SEED", "17")
BASE: Final = Path(trellis.__file__).parent / "base_models" / DEFAULT_BASE
CLIENTS: Final = 8
CALLS: Final = 20
"""Of each client."""
STEADY, CHANGING, LATER = range(3), range(3, 5), range(5, 9)
"""Adapters that stay, those that are deployed and undeployed all the time, and those that are imported meanwhile."""
SLOTS: Final = 3
ROWS: Final = 8 * SLOTS
SETTINGS: Final = {
    "TRELLIS_ENGINE_MAX_ADAPTERS": f"{SLOTS}",
    "TRELLIS_ENGINE_BANK_ROWS": f"{ROWS}",
    "TRELLIS_ENGINE_MAX_RUNNING": "5",
    "TRELLIS_ENGINE_MAX_WAITING": "8",
    "TRELLIS_ENGINE_HOST_BYTES": f"{4 << 20}",
}
DOOMED: Final = 4
"""Calls that are being answered when the engine is killed."""
PROMPTS: Final = ("Good morning!", "What is the capital of France?", "Tell me a story about a ship that")
EXPECTED: Final = {
    Reason.ENGINE_BUSY,
    Reason.ENGINE_UNAVAILABLE,
    Reason.ADAPTER_NOT_DEPLOYED,
    Reason.RESOURCE_NOT_FOUND,
}
"""Why a call may fail here, and no other way."""
ANSWER_SECONDS: Final = 60.0
REST_SECONDS: Final = 60.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, facts = tmp_path_factory.mktemp("adapters"), read_base(str(BASE))
    digest = ChatTokenizer.load(BASE).digest
    for number in range(LATER.stop):
        write_adapter(folder / f"{number}", facts, digest, seed=number, scale=0.1)
        (folder / f"{number}" / MANIFEST_FILE).unlink()
    return [folder / f"{number}" for number in range(LATER.stop)]


@pytest.fixture(scope="module")
def stack() -> Iterator[PrivateStack]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        with private_stack(lambda _: None) as running:
            yield running


@dataclass
class Team:
    """A tenant with adapters, and what each of them said first to each prompt."""

    client: trellis.AsyncClient
    folders: list[Path]
    names: dict[int, str] = field(default_factory=dict)
    said: dict[tuple[str, str], tuple[int, ...]] = field(default_factory=dict)

    async def bring(self, number: int) -> str:
        """Import an adapter and make it callable; the same files again are the same adapter."""
        adapter = await self.client.adapters.import_(self.folders[number], base_model=DEFAULT_BASE)
        deployed = await self.client.adapters.deploy(adapter.name)
        self.names[number] = adapter.name
        return deployed.digest

    async def greedy(self, model: str, prompt: str) -> None:
        """A whole answer, the same each time, whatever happens around it."""
        answer = await self.client.generate(
            model, prompt=prompt, temperature=0.0, max_tokens=24, timeout=ANSWER_SECONDS
        )
        assert answer.usage.completion_tokens == len(answer.token_ids)
        assert self.said.setdefault((model, prompt), answer.token_ids) == answer.token_ids


@pytest_asyncio.fixture
async def team(stack: PrivateStack, folders: list[Path]) -> AsyncIterator[Team]:
    secret = await asyncio.to_thread(stack.enrol, "acme")
    async with trellis.AsyncClient(stack.endpoint, api_key=secret, tenant="acme") as client:
        team = Team(client, folders)
        for number in (*STEADY, *CHANGING):
            await team.bring(number)
        yield team


@dataclass
class Caller:
    """Makes calls one after another, as its own dice say; each ends well, or with an error that says why."""

    team: Team
    seed: str
    number: int
    outcomes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.chance = random.Random(f"{self.seed} {self.number}")

    async def run(self) -> None:
        for _ in range(CALLS):
            acts = (self.ask, self.leave, self.cancel, self.change, self.bring)
            act = self.chance.choices(acts, (60, 14, 10, 10, 6))[0]
            await self.told(act.__name__, act())

    async def told(self, name: str, act: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(2 * ANSWER_SECONDS):
                await act
            self.outcomes[name] += 1
        except TrellisError as error:
            if error.reason not in EXPECTED:
                raise
            self.outcomes[error.reason] += 1

    def model(self) -> str:
        return self.chance.choice([f"baseModels/{DEFAULT_BASE}", *self.team.names.values()])

    async def ask(self) -> None:
        await self.team.greedy(self.model(), self.chance.choice(PROMPTS))

    async def leave(self) -> None:
        """The caller has heard enough."""
        left = self.chance.randint(1, 9)
        pieces = self.team.client.generate_stream(self.model(), prompt=PROMPTS[0], max_tokens=200)
        async with aclosing(pieces):
            async for _ in pieces:
                left -= 1
                if not left:
                    return

    async def cancel(self) -> None:
        """The call is cancelled at any point."""
        call = asyncio.create_task(self.ask())
        for _ in range(self.chance.randint(0, 40)):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    async def change(self) -> None:
        """An adapter is undeployed and deployed again, while others call it."""
        name = self.team.names[self.chance.choice(CHANGING)]
        await self.team.client.adapters.undeploy(name)
        await self.team.client.adapters.deploy(name)

    async def bring(self) -> None:
        """An adapter is imported, deployed, and called."""
        number = self.chance.choice(LATER)
        await self.team.bring(number)
        await self.team.greedy(self.team.names[number], PROMPTS[1])


async def kill_engine(stack: PrivateStack, team: Team, callers: list[Caller]) -> None:
    """When a third of the calls are made; those whose answers have begun are told."""
    while sum(caller.outcomes.total() for caller in callers) < CLIENTS * CALLS / 3:
        await asyncio.sleep(0.05)
    begun = [asyncio.Event() for _ in range(DOOMED)]
    doomed = [asyncio.create_task(doomed_call(team, event)) for event in begun]
    await asyncio.gather(*(event.wait() for event in begun))
    await asyncio.to_thread(kill_replicas, stack.data.marker)
    assert any(await asyncio.gather(*doomed))


async def doomed_call(team: Team, begun: asyncio.Event) -> bool:
    """An answer that is being made when the engine dies: it ends with its last token, or it says what happened."""
    base = f"baseModels/{DEFAULT_BASE}"
    pieces = team.client.generate_stream(base, prompt=PROMPTS[2], temperature=2.0, max_tokens=800)  # so hot, it rambles
    last = None
    try:
        async for piece in pieces:
            begun.set()
            last = piece
    except Unavailable as error:
        return error.reason == Reason.ENGINE_UNAVAILABLE
    assert last is not None
    assert last.finish_reason in {FinishReason.STOP, FinishReason.LENGTH}, last
    return False


def kill_replicas(marker: str) -> None:
    pids = [pid for pid in marked_pids(marker) if b":engine" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert pids, "there is no replica"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


async def at_rest(stack: PrivateStack) -> GetEngineStatusResponse:
    engines, deadline = stack.engines(), time.monotonic() + REST_SECONDS
    try:
        while True:
            status = await engines.engine_status(DEFAULT_BASE)
            if not (status.running_requests or status.waiting_requests or status.kv_blocks_used):
                return status
            assert time.monotonic() < deadline, status
            await asyncio.sleep(0.1)
    finally:
        await engines.close()


@pytest.mark.parametrize("seed", [SEED])  # so that it is named when this fails
async def test_random_calls_are_answered_or_told_why_not(stack: PrivateStack, team: Team, seed: str) -> None:
    callers = [Caller(team, seed, number) for number in range(CLIENTS)]
    async with asyncio.timeout(240):
        await asyncio.gather(*(caller.run() for caller in callers), kill_engine(stack, team, callers))
    outcomes = sum((caller.outcomes for caller in callers), Counter())
    assert outcomes["ask"] > CLIENTS * CALLS / 4, outcomes

    for number in team.names:  # the new replica answers as the killed one did
        await team.bring(number)
        await team.greedy(team.names[number], PROMPTS[0])
    status = await at_rest(stack)
    assert status.bank_rows_used == rows_of(len(status.adapter_digests)) <= ROWS
    assert len(status.adapter_digests) <= SLOTS


def rows_of(adapters: int) -> int:
    """What so many adapters take in the bank: each rank 4 at three of seven linears."""
    numbers = {path: sum(shape) for path, shape in read_base(str(BASE)).linear_shapes.items()}
    own = sum(4 * count for path, count in numbers.items() if path.endswith(("q_proj", "v_proj", "down_proj")))
    return math.ceil(adapters * own / sum(numbers.values()))
