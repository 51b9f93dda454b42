"""What must be true once all is at rest; each check gives sentences on what is not."""

from collections.abc import Callable

from sqlalchemy.ext.asyncio import create_async_engine

import trellis
from tests.chaos.checks.books import ledger_faults
from tests.chaos.checks.jobs import job_faults
from tests.chaos.checks.kept import kept_faults
from tests.chaos.checks.left import left_faults
from tests.chaos.checks.trail import trail_faults
from tests.chaos.diary import Diary
from tests.chaos.installation import Installation
from tests.chaos.load import Tenant


async def check(
    there: Installation,
    diary: Diary,
    admin: trellis.AsyncClient,
    tenants: list[Tenant],
    say: Callable[[str], None],
) -> list[str]:
    """All checks, in sentences."""
    database = create_async_engine(there.database_url)
    try:
        wrong = await job_faults(diary, tenants)
        say("jobs are looked through")
        wrong += await kept_faults(diary, admin, tenants, there.folder)
        say("what was acknowledged is looked for")
        wrong += await ledger_faults(diary, database, tenants)
        wrong += await trail_faults(diary, admin, tenants)
        say("ledger and audit trail are read")
        wrong += await left_faults(there, database, say)
        say("what is left was looked for")
    finally:
        await database.dispose()
    return wrong
