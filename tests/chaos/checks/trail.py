"""What was changed is in the audit trail, once."""

from collections import Counter

import trellis
from tests.chaos.diary import Diary
from tests.chaos.load import Tenant


async def trail_faults(diary: Diary, admin: trellis.AsyncClient, tenants: list[Tenant]) -> list[str]:
    """In sentences."""
    events = [event async for event in admin.audit.list("-", page_size=1000) if event.status == "OK"]
    count = Counter((event.method.rpartition("/")[2], event.resource) for event in events)
    wanted = {("CreateTenant", f"tenants/{name}") for name, there in diary.tenants.items() if there}
    wanted |= {("UploadDatasetVersion", uploaded.name) for uploaded in diary.uploads}
    for tenant in tenants:
        wanted |= {("CreateTuningJob", job.name) async for job in tenant.client.jobs.list()}
    wrong = [
        f"{method} of {name} is {count[method, name]} times in the audit trail"
        for method, name in sorted(wanted)
        if count[method, name] != 1
    ]
    sequences = [event.sequence for event in events]
    return wrong + (["an event of the audit trail came twice"] if len(sequences) != len(set(sequences)) else [])
