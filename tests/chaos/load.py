"""Clients that upload, tune, ask, deploy and administer, all the while, with the SDK and its own retries."""

import asyncio
import io
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import trellis
from tests.chaos.diary import Asked, Diary, Submitted, Uploaded
from tests.e2e import lines
from trellis.client.types import FinishReason, JobState
from trellis.errors import TrellisError

DATASET: Final = "boxes"
BASE: Final = "baseModels/trellis-tiny"
TENANTS: Final = {"acme": None, "globex": trellis.Quota(running_jobs=1, open_jobs=2)}
"""With their quotas."""
ANSWERS: Final = {"acme": lines.COLOURS, "globex": lines.FOODS}
_SETTINGS: Final = trellis.TrainingSettings(
    lora=trellis.LoraSpec(rank=4),
    epochs=100,
    max_steps=40,
    batch_size=4,
    learning_rate=3e-3,
    seed=7,
    checkpoint_steps=8,
    max_evaluation_lines=3,
)
RECIPES: Final = {"short": _SETTINGS, "long": replace(_SETTINGS, max_steps=90, learning_rate=2e-3)}
"""The same recipe on the same data makes the same adapter, whatever happens on the way."""
PROMPTS: Final = tuple(lines.question(number) for number in range(4))
TOKENS: Final = 10
CALL_SECONDS: Final = 40.0
JOB_SECONDS: Final = 900.0


@dataclass
class Tenant:
    """A tenant, its client, and what it has to call."""

    name: str
    client: trellis.AsyncClient
    adapters: list[str] = field(default_factory=list)


@dataclass
class Load:
    """All clients; `stopping` tells them to begin nothing new."""

    seed: int
    diary: Diary
    admin: trellis.AsyncClient
    tenants: list[Tenant]
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Work until told to stop, and until all jobs that are watched have ended."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._again("administer", self.administer, 2.0))
            for tenant in self.tenants:
                for act, pause in (
                    (self.upload, 1.0),
                    (self.tune, 0.5),
                    (self.ask, 0.2),
                    (self.ask, 0.2),
                    (self.place, 2.0),
                ):
                    group.create_task(self._again(f"{act.__name__} {tenant.name}", act, pause, tenant))

    async def _again(self, name: str, act: Callable[..., Awaitable[None]], pause: float, *who: Tenant) -> None:
        chance, number = random.Random(f"{self.seed} {name}"), 0
        while not self.stopping.is_set():
            number += 1
            await act(*who, chance, number)
            await asyncio.sleep(chance.uniform(0.5, 1.5) * pause)

    @contextmanager
    def _trying(self, act: str) -> Iterator[None]:
        try:
            yield
        except TrellisError as error:
            self.diary.heard(act, error)
        else:
            self.diary.done(act)

    async def upload(self, tenant: Tenant, chance: random.Random, number: int) -> None:
        """A file of its own, small or of several messages."""
        answers = tuple(f"{chance.random()}" for _ in range(3))
        data = lines.chat_lines(answers, chance.choice((3, 30, 3000)))
        with self._trying("upload"):
            sent = tenant.client.datasets.upload(
                io.BytesIO(data), dataset=f"files-{number % 3}", filename="f.jsonl", wait=False
            )
            version = await asyncio.wait_for(sent, JOB_SECONDS)
            self.diary.uploads.append(Uploaded(tenant.name, version.name, data))

    async def tune(self, tenant: Tenant, chance: random.Random, number: int) -> None:
        """A job from its submit to its end, disturbed by its owner now and then."""
        recipe = chance.choice(tuple(RECIPES))
        job = Submitted(tenant.name, f"{tenant.name} {number}", recipe)
        self.diary.jobs.append(job)
        deploy = chance.random() < 0.5
        with self._trying("submit"):
            made = await tenant.client.jobs.create(
                DATASET, supervised=RECIPES[recipe], display_name=job.title, deploy=deploy
            )
            job.name = made.name
        if not job.name:
            await asyncio.sleep(1.0)
            return
        meddling = asyncio.create_task(self._meddle(tenant, job, chance))
        with self._trying("watch"):
            async with aclosing(tenant.client.jobs.watch(job.name, timeout=JOB_SECONDS)) as events:
                async for event in events:
                    job.events.append(event)
        meddling.cancel()
        await asyncio.gather(meddling, return_exceptions=True)
        with self._trying("get"):
            done = await tenant.client.jobs.get(job.name)
            if done.state is JobState.SUCCEEDED:
                tenant.adapters.append(done.adapter)

    async def _meddle(self, tenant: Tenant, job: Submitted, chance: random.Random) -> None:
        act = chance.choices(("nothing", "pause", "cancel", "preempt"), (50, 20, 15, 15))[0]
        await asyncio.sleep(chance.uniform(0.0, 15.0))
        if act == "pause":
            with self._trying("pause"):
                await tenant.client.jobs.pause(job.name)
            await asyncio.sleep(chance.uniform(0.0, 5.0))
            while (await self._state(tenant, job)) in {None, JobState.PAUSED, JobState.PAUSING}:
                with self._trying("resume"):
                    await tenant.client.jobs.resume(job.name)
                await asyncio.sleep(0.5)
        elif act == "cancel":
            job.cancelled = True
            with self._trying("cancel"):
                await tenant.client.jobs.cancel(job.name)
        elif act == "preempt":
            with self._trying("preempt"):
                await self.admin.jobs.preempt(job.name)

    async def _state(self, tenant: Tenant, job: Submitted) -> JobState | None:
        try:
            return (await tenant.client.jobs.get(job.name)).state
        except TrellisError as error:
            self.diary.heard("get", error)
            return None

    async def ask(self, tenant: Tenant, chance: random.Random, _number: int) -> None:
        """A greedy answer."""
        model, prompt = chance.choice([BASE, *tenant.adapters]), chance.choice(PROMPTS)
        answered = False
        try:
            with self._trying("ask"):
                said = await tenant.client.generate(
                    model, prompt, temperature=0.0, max_tokens=TOKENS, timeout=CALL_SECONDS
                )
                answered = said.finish_reason in {FinishReason.STOP, FinishReason.LENGTH}
                self.diary.asked.append(
                    Asked(tenant.name, model, prompt, said.token_ids, said.usage.prompt_tokens, said.adapter_digest)
                )
                if not answered or said.usage.completion_tokens != len(said.token_ids):
                    self.diary.unexplained.append(f"an answer of {model} ended without a word: {said}")
        finally:
            if not answered:  # as a person does, not at once
                await asyncio.sleep(1.0)

    async def place(self, tenant: Tenant, chance: random.Random, number: int) -> None:
        """Deploy an adapter or take it away, and move an alias."""
        if not tenant.adapters:
            return
        adapter, alias = chance.choice(tenant.adapters), f"alias-{number % 2}"
        with self._trying("deploy"):
            if chance.random() < 0.7:
                await tenant.client.adapters.deploy(adapter, wait=False)
            else:
                await tenant.client.adapters.undeploy(adapter)
        self.diary.aliases[tenant.name, alias] = None
        with self._trying("alias"):
            await tenant.client.aliases.set(alias, adapter)
            self.diary.aliases[tenant.name, alias] = adapter

    async def administer(self, _chance: random.Random, number: int) -> None:
        """Another tenant."""
        name = f"made-{number}"
        self.diary.tenants[name] = False
        with self._trying("create tenant"):
            await self.admin.tenants.create(name)
            self.diary.tenants[name] = True


async def prepare(admin: trellis.AsyncClient, endpoint: str) -> list[Tenant]:
    """The tenants, each with the dataset that its jobs read."""
    found = []
    for name, quota in TENANTS.items():
        await admin.tenants.create(name, quota=quota)
        key = (await admin.api_keys.create(f"tenants/{name}", role=trellis.Role.TENANT_ADMIN)).secret
        client = trellis.AsyncClient(endpoint, key, tenant=name, timeout=CALL_SECONDS)
        data = lines.chat_lines(ANSWERS[name])
        await client.datasets.upload(io.BytesIO(data), dataset=DATASET, filename="boxes.jsonl")
        found.append(Tenant(name, client))
    return found
