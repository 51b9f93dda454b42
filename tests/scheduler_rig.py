"""A scheduler with blocks and a bank but without a model."""

from collections import Counter
from collections.abc import Callable
from itertools import count

from tests.tiny_bank import Events, ref, tiny_bank, tiny_tiers
from trellis.engine.blocks import BlockPool
from trellis.engine.limits import EngineLimits
from trellis.engine.scheduler import Scheduler
from trellis.engine.work import Work

LIMITS = EngineLimits(max_running=8, max_waiting=1000, step_tokens=64, fairness_window=200.0)


class Rig:
    """A scheduler over answers whose tokens are numbers: each ends when it has all that it asked for."""

    def __init__(self, limits: EngineLimits = LIMITS, *, blocks: int = 400, rows: int = 32, slots: int = 8) -> None:
        self.blocks = BlockPool(blocks, 4)
        self.bank = tiny_bank(rows, slots)
        self.events = Events()
        self.tiers = tiny_tiers(self.bank, on_event=self.events)
        self.scheduler: Scheduler[Work] = Scheduler(limits, self.blocks, self.tiers)
        self.tokens: Counter[str] = Counter()
        self.ended: list[Work] = []
        self.steps = 0
        self._fresh = count(1)  # every prompt is another, so that none is found in the cache

    def add(
        self,
        tenant: str = "a",
        prompt: int = 8,
        answer: int = 8,
        adapter: str = "",
        weight: float = 1.0,
        rank: int = 8,
    ) -> Work:
        work = Work([next(self._fresh) for _ in range(prompt)], prompt, answer, tenant, weight)
        work.adapter = ref(adapter, rank) if adapter else None
        self.scheduler.add(work)
        return work

    def step(self) -> list[tuple[Work, int]]:
        self.tiers.poll()
        self.scheduler.admit()
        plan = self.scheduler.plan()
        for work, tokens in plan:
            self._advance(work, tokens)
        self.steps += 1
        return plan

    def until(self, condition: Callable[[], bool], most: int = 2000) -> int:
        start = self.steps
        while not condition():
            assert self.steps - start < most
            self.step()
        return self.steps - start

    def finish(self) -> None:
        self.until(lambda: self.scheduler.running + self.scheduler.waiting == 0)
        assert (self.blocks.used, self.tiers.pins) == (0, 0)

    def _advance(self, work: Work, tokens: int) -> None:
        self.scheduler.advance(work, tokens)
        self.tokens[work.tenant] += tokens - 1 if work.pending == 0 else tokens
        if work.pending:
            return
        work.token_ids.append(0)
        self.tokens[work.tenant] += 2
        self.scheduler.charge_answer(work)
        if len(work.token_ids) == work.prompt_tokens + work.max_tokens:
            self.scheduler.remove(work)
            self.ended.append(work)
