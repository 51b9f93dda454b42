"""Units of work over SQLAlchemy: one transaction each."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Self

from sqlalchemy.ext.asyncio import AsyncEngine

from trellis.server.app import audit
from trellis.server.app.bell import Hear
from trellis.server.app.ports import (
    Adapters,
    ApiKeys,
    AuditTrail,
    BaseModels,
    Datasets,
    Exports,
    Leases,
    Ledger,
    Requests,
    Tenants,
    Trainers,
    TuningJobs,
    UnitOfWork,
)
from trellis.server.app.queue_ports import BoardRow, FairShares, QueueFacts, Reservations
from trellis.server.app.quota_ports import RateBuckets, UsedQuota
from trellis.server.store.adapters import SqlAdapters
from trellis.server.store.api_keys import SqlApiKeys
from trellis.server.store.audit import SqlAuditTrail
from trellis.server.store.base_models import SqlBaseModels
from trellis.server.store.board import SqlBoard
from trellis.server.store.datasets import SqlDatasets
from trellis.server.store.engine import options_for
from trellis.server.store.exports import SqlExports
from trellis.server.store.failures import busy, translated
from trellis.server.store.fair_shares import SqlFairShares
from trellis.server.store.leases import SqlLeases
from trellis.server.store.ledger import SqlLedger
from trellis.server.store.patience import LOCK_SECONDS
from trellis.server.store.queue_facts import SqlQueueFacts
from trellis.server.store.rate_buckets import SqlRateBuckets
from trellis.server.store.requests import SqlRequests
from trellis.server.store.reservations import SqlReservations
from trellis.server.store.tenants import SqlTenants
from trellis.server.store.trainers import SqlTrainers
from trellis.server.store.transaction import Transaction
from trellis.server.store.tuning_jobs import SqlTuningJobs
from trellis.server.store.used_quota import SqlUsedQuota


class SqlUnitOfWork:
    """See ports.UnitOfWork. Errors of the database that may pass leave it as Aborted or Unavailable."""

    tenants: Tenants
    api_keys: ApiKeys
    base_models: BaseModels
    datasets: Datasets
    jobs: TuningJobs
    trainers: Trainers
    adapters: Adapters
    exports: Exports
    ledger: Ledger
    requests: Requests
    leases: Leases
    audit: AuditTrail
    queue: QueueFacts
    fair_shares: FairShares
    reservations: Reservations
    board: BoardRow
    used: UsedQuota
    rates: RateBuckets

    def __init__(
        self, engine: AsyncEngine, writer: asyncio.Lock | None, told: Hear, *, write: bool, snapshot: bool
    ) -> None:
        self._engine = engine
        self._told = told
        self._writer = writer if write else None
        self._write = write
        self._snapshot = snapshot
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            async with AsyncExitStack() as stack:
                await self._begin(stack)
                self._stack = stack.pop_all()
        except Exception as error:
            self._raise_translated(error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._stack.aclose()  # rolls back what was not committed
        except Exception as failed:
            # The connection died since: what the block raised, if anything, says more.
            self._raise_translated(error)
            self._raise_translated(failed)
            raise
        self._raise_translated(error)

    async def commit(self) -> None:
        """Makes it all true."""
        assert self._write, "a unit of work that only reads has nothing to commit"
        await self._transaction.commit()
        self._ledger.committed()
        self._told(frozenset(self._transaction.touched))
        audit.committed()

    async def _begin(self, stack: AsyncExitStack) -> None:
        if self._writer:
            await stack.enter_async_context(_turn(self._writer))
        connection = await stack.enter_async_context(self._engine.connect())
        await connection.execution_options(**options_for(self._engine, write=self._write, snapshot=self._snapshot))
        await connection.begin()
        self._transaction = transaction = Transaction(connection, writes=self._write)
        self.tenants = SqlTenants(transaction)
        self.api_keys = SqlApiKeys(transaction)
        self.base_models = SqlBaseModels(transaction)
        self.datasets = SqlDatasets(transaction)
        self.jobs = SqlTuningJobs(transaction)
        self.trainers = SqlTrainers(transaction)
        self.adapters = SqlAdapters(transaction)
        self.exports = SqlExports(transaction)
        self.ledger = self._ledger = SqlLedger(transaction)
        self.requests = SqlRequests(transaction)
        self.leases = SqlLeases(transaction)
        self.audit = SqlAuditTrail(transaction)
        self.queue = SqlQueueFacts(transaction)
        self.fair_shares = SqlFairShares(transaction)
        self.reservations = SqlReservations(transaction)
        self.board = SqlBoard(transaction)
        self.used = SqlUsedQuota(transaction)
        self.rates = SqlRateBuckets(transaction)

    @staticmethod
    def _raise_translated(error: BaseException | None) -> None:
        said = translated(error)
        if said is not None:
            raise said from error


@asynccontextmanager
async def _turn(writer: asyncio.Lock) -> AsyncIterator[None]:
    # SQLite has one writer. Here they queue in order; left to SQLite, each would poll and some would starve.
    try:
        async with asyncio.timeout(LOCK_SECONDS):
            await writer.acquire()
    except TimeoutError:
        raise busy() from None
    try:
        yield
    finally:
        writer.release()


class SqlUnitOfWorkFactory:
    """See ports.UnitOfWorkFactory; `told` hears what each commit has touched."""

    def __init__(self, engine: AsyncEngine, told: Hear = lambda _: None) -> None:
        self._engine = engine
        self._told = told
        self._writer = asyncio.Lock() if engine.dialect.name == "sqlite" else None

    def __call__(self, *, write: bool = True, snapshot: bool = True) -> UnitOfWork:
        """A fresh unit of work."""
        return SqlUnitOfWork(self._engine, self._writer, self._told, write=write, snapshot=snapshot)
