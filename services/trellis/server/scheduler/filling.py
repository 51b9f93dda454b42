"""A quick guess at when the jobs of a long queue start: tenants take turns as capacity comes free.

What is approximate, beside what a plan does: nobody is preempted; trainers of a base come and go with its jobs; of the
queue only the jobs whose turn comes first are tried in a round; and where much runs, a round waits until a small part of
it has ended.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta

from trellis.server.domain.tuning_job import QueueCode
from trellis.server.scheduler.backfill import Head
from trellis.server.scheduler.capacity import NOTHING, Resources
from trellis.server.scheduler.snapshot import Alone, QueuedJob, Shared, Snapshot
from trellis.server.scheduler.stock import Stock

_COARSER = 0.06
"""Of what runs this part ends before the next round, one job at the least."""
_IN_VAIN = 40
"""Jobs that a round tries in vain, and then it is over."""
_TRIES = 120_000
"""Jobs that all rounds try; what waits then is not foretold."""

_Turn = tuple[int, bool, float, datetime, str]


class Filling:
    """Round by round: at each moment jobs are offered by turns, as a plan does."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._origin = snapshot.now
        self._stock = Stock(snapshot)
        self._claims = {job.uid: self._stock.accounts.claim(job) for job in snapshot.queued}
        self._waiting: dict[str, list[QueuedJob]] = defaultdict(list)
        for job in sorted(snapshot.queued, key=lambda job: (-job.priority, job.create_time, job.uid)):
            if self._stock.accounts.of(job.tenant).ever_allows(self._claims[job.uid]):
                self._waiting[job.tenant].append(job)
        self._tries = _TRIES
        self._starts: dict[str, float] = {}
        self._head: Head | None = None
        self._foreseen: dict[str, Resources] = {}

    def run(self) -> Mapping[str, float]:
        """By uid: in how many seconds each queued job is likely to start, of those of which that can be said."""
        stock = self._stock
        while self._waiting and self._tries > 0:
            self._round()
            after = self._next()
            if after is None:
                break
            stock.go_to(max(after, stock.end_of_part(_COARSER), stock.now + 1.0))
            self._renew_budgets()
        return self._starts

    def _round(self) -> None:
        self._forget()
        at: Counter[str] = Counter()
        heap = [self._turn(tenant, 0) for tenant in self._waiting]
        heapq.heapify(heap)
        in_vain = 0
        while heap and in_vain < _IN_VAIN:
            tenant = heapq.heappop(heap)[-1]
            jobs = self._waiting[tenant]
            self._tries -= 1
            if self._offer(jobs[at[tenant]]):
                del jobs[at[tenant]]
            else:
                at[tenant] += 1
                in_vain += 1
            if at[tenant] < len(jobs):
                heapq.heappush(heap, self._turn(tenant, at[tenant]))
        self._waiting = defaultdict(list, {tenant: jobs for tenant, jobs in self._waiting.items() if jobs})

    def _forget(self) -> None:
        """Nothing is promised to anybody from the last round."""
        self._head, self._foreseen = None, {}
        for tenant in self._waiting:
            account = self._stock.accounts.of(tenant)
            account.promised, account.promised_to, account.line.promised = None, "", 0.0
            if account.line.cohort is not None:
                account.line.cohort.promised, account.line.cohort.promised_to = 0.0, None

    def _offer(self, job: QueuedJob) -> bool:
        """Start the job if it may; else what it waits for is kept from those behind it."""
        stock, claim = self._stock, self._claims[job.uid]
        if job.retry_time is not None and job.retry_time > stock.time:
            return False
        account = stock.accounts.of(job.tenant)
        obstacle = next(account.obstacles(job.uid, claim), None)
        needs = stock.needs(job)
        if obstacle is None and self._may_take(job, needs):
            stock.start(job, claim)
            self._starts[job.uid] = stock.now
            return True
        if obstacle is not QueueCode.BUDGET:
            account.promise(job.uid, claim, obstacle)
        if obstacle is None:
            self._foreseen[job.tenant] = self._foreseen.get(job.tenant, NOTHING).plus(claim.resources)
            if self._head is None:
                self._head = Head(job, needs)
                stock.drain(needs, job.work.base if isinstance(job.work, Shared) else None)
                self._head.expect(stock.time, stock.free, stock.ends())
        return False

    def _may_take(self, job: QueuedJob, needs: Resources) -> bool:
        """Whether there is room, without delaying the first job that waits for capacity."""
        if needs == NOTHING:
            return True
        if not needs.fits_into(self._stock.free):
            return False
        if self._head is None:
            return True
        is_alone = isinstance(job.work, Alone)  # a trainer stays longer than the job that it is started for
        end = self._stock.time + timedelta(seconds=self._stock.seconds(job)) if is_alone else None
        if not self._head.lets(needs, end):
            return False
        self._head.passed(needs, end)
        return True

    def _turn(self, tenant: str, at: int) -> _Turn:
        job, account = self._waiting[tenant][at], self._stock.accounts.of(tenant)
        share = self._stock.share(tenant, self._foreseen.get(tenant, NOTHING))
        return -max(0, job.priority), account.share.over_soft_budget, share, job.create_time, tenant

    def _next(self) -> float | None:
        """When something is given back, or may be had again."""
        end = self._stock.next_end()
        first = [jobs[0] for jobs in self._waiting.values()]
        fixed = [job.retry_time for job in first if job.retry_time is not None]
        fixed += [end for job in first for end in self._stock.accounts.of(job.tenant).share.budget_ends.values()]
        times = [(time - self._origin).total_seconds() for time in fixed]
        return min((at for at in (*times, *([] if end is None else [end])) if at > self._stock.now), default=None)

    def _renew_budgets(self) -> None:
        for tenant in self._waiting:
            account = self._stock.accounts.of(tenant)
            for meter, end in account.share.budget_ends.items():
                if end <= self._stock.time and meter in account.budget_most:
                    account.budget_left[meter] = account.budget_most[meter]
