"""The trainer's loop: whose turn it is, one pass or one slice of work, and who comes and goes in between."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final

import torch

from trellis.v1.worker_pb2 import STOP_REQUEST_PREEMPT
from trellis_jobs.failure import JobStoppedError, is_out_of_memory
from trellis_jobs.server import FencedError
from trellis_jobs.shared.attempt import Attempt
from trellis_jobs.shared.packer import Pass, Turns, fill
from trellis_jobs.shared.pass_budget import PassBudget
from trellis_jobs.shared.tenant import Surroundings, Tenant
from trellis_jobs.shared.watchdog import Watchdog
from trellis_jobs.shared.work import Compute, Lane, Slice, Wait

_IDLE_LOOK_SECONDS: Final = 0.2
_PACE_SHARE: Final = 0.1
"""Of the newest pass in the average of tokens a second."""
_log = logging.getLogger(__name__)


class Trainer:
    """Mixes the work of all jobs. `give` and `stop` may be called on any thread, `run` has the loop's."""

    def __init__(
        self,
        around: Surroundings,
        pass_tokens: int,
        watchdog: Watchdog,
        on_departure: Callable[[Attempt], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._around = around
        self._budget = PassBudget(pass_tokens)
        self._watchdog = watchdog
        self._on_departure = on_departure
        self._clock = clock
        self._arrivals: SimpleQueue[Attempt] = SimpleQueue()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._tenants: list[Tenant] = []
        self._endings: dict[Future[None], Tenant] = {}
        self._turns = Turns()
        self._suspects: set[Lane] = set()
        self._watched: set[Future[Any]] = set()
        self.tokens_per_second = 0.0
        """Over the last passes."""

    def give(self, attempt: Attempt) -> None:
        """Take an attempt in, at the next turn of the loop."""
        self._arrivals.put(attempt)
        self._wake.set()

    def stop(self) -> None:
        """Save all jobs' checkpoints, give them back to the server, and end the loop."""
        self._stopping.set()
        self._wake.set()

    @property
    def stopping(self) -> bool:
        """Whether the process was told to end."""
        return self._stopping.is_set()

    @property
    def jobs(self) -> int:
        """Jobs that are here."""
        return len(self._tenants) + len(self._endings)

    def run(self, over: Callable[[int], bool]) -> None:
        """Work until `over`, which is asked with the number of jobs whenever there is nothing to compute."""
        self._watchdog.start()
        try:
            self._go_round(over)
        finally:
            self._watchdog.stop()  # it would take the end for a stall, and end a process that goes on

    def _go_round(self, over: Callable[[int], bool]) -> None:
        while True:
            self._watchdog.beat()
            self._take_in()
            if self._stopping.is_set():
                self._give_all_back()
            self._hear_stops()
            self._settle()
            if not self._work() and self._rest(over):
                return

    def _rest(self, over: Callable[[int], bool]) -> bool:
        """Wait for something to happen; whether the loop is over."""
        if self._arrivals.empty() and (over(self.jobs) or (self._stopping.is_set() and not self.jobs)):
            return True
        self._wake.wait(_IDLE_LOOK_SECONDS)
        self._wake.clear()
        return False

    # Who comes and goes

    def _take_in(self) -> None:
        while True:
            try:
                attempt = self._arrivals.get_nowait()
            except Empty:
                return
            tenant = Tenant(attempt, self._around)
            self._tenants.append(tenant)
            self._turns.join(tenant.lanes[0])
            self._advance(tenant, tenant.lanes[0].start)

    def _hear_stops(self) -> None:
        for tenant in [found for found in self._tenants if not found.handed_in]:
            try:
                tenant.attempt.reporter.check()
            except JobStoppedError as stopped:
                if tenant.stopped is None or tenant.stopped.stop != stopped.stop:
                    self._advance(tenant, partial(tenant.leave, stopped))
            except Exception as error:  # noqa: BLE001  reporting is impossible: this job is over, the others go on
                self._end(tenant, error)

    def _give_all_back(self) -> None:
        for tenant in [found for found in self._tenants if found.stopped is None and not found.handed_in]:
            _log.info("%s is given back, as the process was told to end.", tenant.attempt.tuning_job)
            self._advance(tenant, partial(tenant.leave, JobStoppedError(STOP_REQUEST_PREEMPT)))

    def _advance(self, tenant: Tenant, move: Callable[[], None]) -> None:
        """Run a part of a job's script; whatever it raises ends that job alone."""
        try:
            move()
        except Exception as error:  # noqa: BLE001  the server hears of it
            self._end(tenant, error)
            return
        if tenant.done:
            self._part(tenant)
            tenant.attempt.close()

    def _end(self, tenant: Tenant, error: Exception) -> None:
        self._part(tenant)
        if isinstance(error, FencedError):
            _log.info("%s is not ours any more.", tenant.attempt.tuning_job)
        ending = self._around.callers.submit(tenant.attempt.fail, error)
        self._endings[ending] = tenant
        ending.add_done_callback(lambda _: self._wake.set())

    def _part(self, tenant: Tenant) -> None:
        self._tenants.remove(tenant)
        tenant.release()
        self._suspects.difference_update(tenant.lanes)
        self._on_departure(tenant.attempt)

    def _settle(self) -> None:
        """Give scripts what they waited for, and forget jobs whose end the server knows."""
        for tenant in list(self._tenants):
            for lane in list(tenant.lanes):
                request = lane.request
                if isinstance(request, Wait) and tenant in self._tenants:
                    self._look(tenant, lane, request.future)
        for ending in [found for found in self._endings if found.done()]:
            tenant = self._endings.pop(ending)
            if (error := ending.exception()) is not None:
                _log.error("%s could not be ended: %s", tenant.attempt.tuning_job, error)
            tenant.attempt.close()

    def _look(self, tenant: Tenant, lane: Lane, future: Future[Any]) -> None:
        if not future.done():
            if future not in self._watched:
                self._watched.add(future)
                future.add_done_callback(self._awake)
            return
        self._watched.discard(future)
        self._turns.join(lane)
        error = future.exception()
        self._advance(tenant, partial(lane.send, future.result()) if error is None else partial(lane.throw, error))

    def _awake(self, _: Future[Any]) -> None:
        self._wake.set()

    # Work

    def _lanes(self) -> Iterator[tuple[Tenant, Lane]]:
        for tenant in self._tenants:
            for lane in tenant.lanes:
                yield tenant, lane

    def _work(self) -> bool:
        """One pass, or one slice; whether there was any."""
        owners = {lane: tenant for tenant, lane in self._lanes()}
        lane = self._turns.pick(owners)
        if lane is None:
            return False
        if isinstance(lane.request, Slice):
            self._run_slice(owners[lane], lane, lane.request)
            return True
        alone = lane in self._suspects
        others = [lane] if alone else [other for other in owners if other not in self._suspects]
        self._run_pass(fill(lane, others, self._budget.tokens), owners)
        return True

    def _run_slice(self, tenant: Tenant, lane: Lane, work: Slice) -> None:
        began = self._clock()
        result: Any = None
        error: Exception | None = None
        try:
            result = work.run()
        except Exception as raised:  # noqa: BLE001  it is the job's, whose script gets it
            error = raised
        seconds = self._clock() - began
        lane.charge(seconds * self.tokens_per_second)
        tenant.attempt.use(seconds=seconds)
        self._watchdog.beat(seconds)
        self._advance(tenant, partial(lane.send, result) if error is None else partial(lane.throw, error))

    def _run_pass(self, work: Pass, owners: dict[Lane, Tenant]) -> None:
        began = self._clock()
        found: list[Any] = []
        error: Exception | None = None
        try:
            found = self._around.engine.compute([piece for _, piece in work.pieces], gradient=work.gradient)
        except Exception as raised:  # noqa: BLE001  whose it is, is found out
            error = raised
        if error is not None:
            self._replay(work, owners, error)
            return
        self._account(work, owners, self._clock() - began)
        if self._budget.fitted(work.tokens):
            _log.info("Passes may have %d tokens again.", self._budget.tokens)
        for (lane, _), finding in zip(work.pieces, found, strict=True):
            assert isinstance(lane.request, Compute)
            lane.request.found.append(finding)
        for lane in dict.fromkeys(lane for lane, _ in work.pieces):
            self._suspects.discard(lane)
            request = lane.request
            if isinstance(request, Compute) and len(request.found) == len(request.pieces):
                self._advance(owners[lane], partial(lane.send, request.found))

    def _account(self, work: Pass, owners: dict[Lane, Tenant], seconds: float) -> None:
        """Share the pass's seconds out by tokens."""
        tokens = max(1, work.tokens)
        for lane, piece in work.pieces:
            lane.charge(piece.chunk.tokens)
            owners[lane].attempt.use(seconds=seconds * piece.chunk.tokens / tokens)
        pace = tokens / max(seconds, 1e-9)
        self.tokens_per_second += (_PACE_SHARE if self.tokens_per_second else 1.0) * (pace - self.tokens_per_second)
        self._watchdog.beat(seconds)

    def _replay(self, work: Pass, owners: dict[Lane, Tenant], error: Exception) -> None:
        """After a pass that failed: begin the batches in it anew, in smaller passes, until it is clear whose it is."""
        lanes = list(dict.fromkeys(lane for lane, _ in work.pieces))
        if work.gradient:
            for lane in lanes:
                owners[lane].clear()  # the pass may have added a part of its gradients
                assert isinstance(lane.request, Compute)
                lane.request.found.clear()
        out_of_memory = is_out_of_memory(error)
        if len(work.pieces) == 1 or (len(lanes) == 1 and not out_of_memory):
            self._advance(owners[lanes[0]], partial(lanes[0].throw, error))
        elif out_of_memory:
            self._budget.ran_out(work.tokens)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            _log.warning("A pass of %d tokens ran out of memory; now they have %d.", work.tokens, self._budget.tokens)
        else:
            _log.warning("A pass of %d jobs failed (%s); each is tried by itself.", len(lanes), error)
            self._suspects.update(lanes)
