"""The ledger adds up, and is what was used."""

from collections import Counter

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.chaos.diary import Diary
from tests.chaos.load import Tenant
from trellis.cli.usage_check import StatementCheck
from trellis.server.app.ledger_reading import LedgerRange
from trellis.server.domain.derived import derive
from trellis.server.domain.ledger import LedgerEntry, Meter
from trellis.server.store.tables.jobs import attempts, tuning_jobs
from trellis.server.store.tables.ledger import holds
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory


async def ledger_faults(diary: Diary, database: AsyncEngine, tenants: list[Tenant]) -> list[str]:
    """In sentences."""
    wrong: list[str] = []
    for tenant in tenants:
        entries = await _entries(database, tenant.name)
        derived = derive(entries)
        wrong += [
            f"{name} still holds {quantity} of {key}"
            for key, quantity in derived.holds.items()
            for name in [tenant.name]
        ]
        async with SqlUnitOfWorkFactory(database)(write=False) as unit:
            kept = await unit.ledger.derived(tenant.name)
        for what in ("hours", "days", "holds"):
            if getattr(kept, what) != getattr(derived, what):
                wrong.append(f"what is kept of {tenant.name}'s {what} is not what its entries give")
        wrong += await _trained_faults(database, tenant.name, entries) + _answered_faults(diary, tenant.name, entries)
        wrong += [f"{tenant.name}: {said}" for said in await _statement_faults(tenant)]
    async with database.connect() as connection:
        left = (await connection.execute(select(holds).where(holds.c.quantity != 0))).all()
    return wrong + [f"a hold is left: {row}" for row in left]


async def _entries(database: AsyncEngine, tenant: str) -> list[LedgerEntry]:
    found: list[LedgerEntry] = []
    cursor: str | None = None
    async with SqlUnitOfWorkFactory(database)(write=False) as unit:
        while True:
            page = await unit.ledger.entries(LedgerRange(tenant, None, None), 1000, cursor)
            found += page.items
            if (cursor := page.next_cursor) is None:
                return found


async def _trained_faults(database: AsyncEngine, tenant: str, entries: list[LedgerEntry]) -> list[str]:
    """What was settled for each job is what its attempts reported, which is what the job says."""
    settled: Counter[str] = Counter()
    for entry in entries:
        if entry.kind == "SETTLE" and entry.meter is Meter.TRAINED_TOKENS:
            settled[entry.job_uid] += entry.quantity
    async with database.connect() as connection:
        jobs = (await connection.execute(select(tuning_jobs).where(tuning_jobs.c.tenant == tenant))).all()
        tried = (await connection.execute(select(attempts).where(attempts.c.tenant == tenant))).all()
    reported: Counter[str] = Counter()
    for attempt in tried:
        reported[attempt.job_uid] += attempt.used_tokens
    return [
        f"of {job.job_id} {settled[job.uid]} tokens were settled, its attempts reported {reported[job.uid]}, "
        f"and it says {job.used_tokens}"
        for job in jobs
        if not settled[job.uid] == reported[job.uid] == job.used_tokens
    ]


def _answered_faults(diary: Diary, tenant: str, entries: list[LedgerEntry]) -> list[str]:
    """Each answer that ended well was settled once; calls that did not may have been, for what they had got."""
    settled = sum(e.quantity for e in entries if e.kind == "SETTLE" and e.meter is Meter.COMPLETION_TOKENS)
    answered = sum(len(asked.token_ids) for asked in diary.asked if asked.tenant == tenant)
    if not answered <= settled:
        return [f"{tenant} was given {answered} tokens of answers, and {settled} were settled"]
    return []


async def _statement_faults(tenant: Tenant) -> list[str]:
    check, client = StatementCheck(), tenant.client
    statement = await client.usage.statement()
    check.read(
        [entry async for entry in client.usage.entries(start_time=statement.start_time, end_time=statement.end_time)]
    )
    return check.differences(statement)
