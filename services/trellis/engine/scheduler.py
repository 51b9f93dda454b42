"""Who runs, and with how many tokens in a step."""

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from trellis.engine.blocks import BlockPool
from trellis.engine.budget import Demand, fair_shares
from trellis.engine.fairness import VirtualTokenCounters, cost
from trellis.engine.limits import EngineLimits
from trellis.engine.queue import Pick, WaitingQueue
from trellis.engine.turns import Adapters, Claim, Turns
from trellis.engine.work import Work

W = TypeVar("W", bound=Work)
_LEAST_PROMPT_TOKENS: Final = 16
"""A step's for prompts, however many answers run: else none of those would ever begin."""
_OVERDUE: Final = 1e6
"""More urgent than anything else, for a request that others have passed too long."""


class Scheduler(Generic[W]):
    """Continuous batching: places and blocks are given out as they free up, prompts run in chunks beside answers.

    What begins to run has blocks for all that it may ever take, so nothing that runs is ever thrown out. Slots of the
    adapter bank are shared in turns: what runs may be parked for some steps.
    """

    def __init__(self, limits: EngineLimits, blocks: BlockPool, adapters: Adapters) -> None:
        self._limits = limits
        self._blocks = blocks
        self._adapters = adapters
        self._counters = VirtualTokenCounters()
        self._queue: WaitingQueue[W] = WaitingQueue(self._counters)
        self._running: dict[W, None] = {}
        self._turns: Turns[W] = Turns(limits, adapters, self._counters)
        self._typical: float | None = None
        """Tokens of an answer, of late."""

    @property
    def running(self) -> int:
        """Answers that are being made, those that are parked among them."""
        return len(self._running)

    @property
    def parked(self) -> int:
        """Answers that wait for their adapter's slot."""
        return self._turns.parked

    @property
    def waiting(self) -> int:
        """Answers that wait."""
        return len(self._queue)

    @property
    def tokens_left(self) -> int:
        """Tokens that all of them will probably still take."""
        works = (*self._running, *self._queue)
        return sum(max(work.prompt_tokens - work.computed, 0) + self._answer_left(work) for work in works)

    def has_room(self, tenant: str, answers: int) -> bool:
        """Whether so many more answers may wait for this tenant."""
        room = self._limits.max_running + self._limits.max_waiting - self.running - self.waiting
        held = self._queue.of(tenant) + sum(work.tenant == tenant for work in self._running)
        return answers <= room and held < self._limits.tenant_room * room

    def add(self, work: W) -> None:
        """Let it wait for its turn."""
        is_away = not any(running.tenant == work.tenant for running in self._running)
        self._queue.add(work, 0.0 if is_away else self._limits.fairness_window)

    def remove(self, work: W) -> None:
        """Let go of it and of all that it holds, whether it waits or runs."""
        if work in self._queue:
            self._queue.remove(work)
            return
        del self._running[work]
        self._typical = work.answer_tokens if self._typical is None else 0.9 * self._typical + 0.1 * work.answer_tokens
        assert work.table is not None
        self._blocks.close(work.table)
        work.table = None
        self._turns.leave(work)

    def admit(self) -> int:
        """Let those begin for whom there is room, and bring their adapters closer for whom there is none yet.

        The number of requests that began and of adapters that came into the bank.
        """
        upcoming = self._queue.upcoming(self._limits.prefetched, self._pledged())
        copied = self._turns.share(self._firsts(upcoming))
        began = self._begin_all()
        parked = self._turns.wanted  # before these, nobody who waits gets what is free
        later = [work.adapter for work in upcoming if work.adapter is not None and work.table is None]
        ahead = self._adapters.stock([*parked, *later], 0 if parked else self._limits.loads_a_step - copied)
        return began + copied + ahead + (self._begin_all() if ahead else 0)

    def plan(self) -> list[tuple[W, int]]:
        """Each one that runs in this step, and how many of its tokens: answers first, then prompts."""
        self._turns.tick()
        runs = [work for work in self._running if not work.is_parked]
        answers = [work for work in runs if work.pending == 1]
        prompts = [work for work in runs if work.pending > 1]
        budget = max(self._limits.step_tokens - len(answers), _LEAST_PROMPT_TOKENS)
        return [(work, 1) for work in answers] + list(_chunks(prompts, budget))

    def advance(self, work: W, tokens: int) -> None:
        """So many more of its tokens are computed; blocks that they fill are others' to use."""
        assert work.table is not None
        work.computed += tokens
        self._blocks.publish(work.table, work.token_ids, work.computed)

    def charge_answer(self, work: W) -> None:
        """A token was made for it."""
        self._counters.charge(work.tenant, work.weight, output=1)

    def _answer_left(self, work: W) -> int:
        """Tokens of its answer that will probably still come."""
        typical = work.max_tokens if self._typical is None else min(int(self._typical), work.max_tokens)
        return max(typical - work.answer_tokens, 0)

    def _pledged(self) -> dict[str, float]:
        """What each tenant will probably have had when its running answers end, beyond what it has had by now.

        Without it, a tenant that is due one more place would be given all that are free at the moment.
        """
        pledged: dict[str, float] = {}
        for work in self._running:
            more = cost(work.weight, output=self._answer_left(work))
            pledged[work.tenant] = pledged.get(work.tenant, 0.0) + more
        return pledged

    def _begin_all(self) -> int:
        began = 0
        while self.running < self._limits.max_running:
            pick = self._queue.pick(self._is_ready, self._is_overdue, self._pledged()) if self._queue else None
            if pick is None or not self._begin(pick):
                break
            began += 1
        return began

    def _begin(self, pick: Pick[W]) -> bool:
        """Whether there was room in the cache; when not, nobody goes past, so that the large are not starved."""
        work = pick.work
        table = self._blocks.open(work.owner, work.token_ids, work.most_tokens)
        if table is None:
            return False
        for passed in pick.passed:
            if passed.passed_at is None and not self._is_resident(passed):
                passed.passed_at = self._counters.served
        self._counters.charge(work.tenant, work.weight, prompt=work.prompt_tokens - table.cached_tokens)
        self._queue.remove(work)
        self._running[work] = None
        work.table = table
        work.computed = work.cached = table.cached_tokens
        self._turns.join(work)
        return True

    def _is_ready(self, work: W) -> bool:
        return work.leader_is_ready and self._is_resident(work)

    def _is_resident(self, work: W) -> bool:
        return work.adapter is None or self._adapters.is_resident(work.digest)

    def _is_overdue(self, work: W) -> bool:
        """Whether it was passed over too long, and could run were there a slot for its adapter."""
        if work.passed_at is None or self._is_resident(work) or not self._adapters.is_at_hand(work.digest):
            return False
        return self._counters.served - work.passed_at > self._limits.fairness_window

    def _firsts(self, upcoming: list[W]) -> Iterator[Claim[W]]:
        """Those that would begin now if their adapters had slots."""
        places = self._limits.max_running - self.running
        blocks = self._blocks.count - self._blocks.used
        for work in upcoming:
            if not (work.leader_is_ready and (self._is_resident(work) or self._adapters.is_at_hand(work.digest))):
                continue
            places -= 1
            blocks -= self._blocks.needed(work.owner, work.token_ids, work.most_tokens) if places >= 0 else 0
            if places < 0 or blocks < 0:
                return
            if work.adapter is not None:
                yield Claim((work,), _OVERDUE if self._is_overdue(work) else 1.0)


def _chunks(prompts: list[W], budget: int) -> Iterator[tuple[W, int]]:
    """Prompts' shares: fair between tenants, and within one tenant first come, first served."""
    by_tenant: dict[str, list[W]] = {}
    for work in prompts:
        by_tenant.setdefault(work.tenant, []).append(work)
    demands = {t: Demand(sum(w.pending for w in works), works[-1].weight) for t, works in by_tenant.items()}
    for tenant, share in fair_shares(budget, demands).items():
        left = share
        for work in by_tenant[tenant]:
            tokens = min(work.pending, left)
            left -= tokens
            if tokens:
                yield work, tokens
