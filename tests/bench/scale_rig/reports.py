"""What a running job's report takes."""

import asyncio
import time

from tests.bench.scale_rig.fleet import Fleet
from tests.contract.store import samples
from trellis.server.app.progress import AttemptReport, report_attempt
from trellis.server.domain.caller import AttemptRef, Caller, Role
from trellis.server.domain.tuning_job import MetricPoint, Progress

_AT_ONCE = 16
_CALLS = 200


async def report_seconds(fleet: Fleet, running: int, rounds: int) -> float:
    """CPU seconds of a server a report with progress and two metrics, without gRPC, sixteen at once."""
    jobs = [uid for uid, _ in zip(fleet.running_uids, range(min(running, _CALLS)), strict=False)]
    began, count = time.process_time(), 0
    for number in range(rounds):
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(tenant: str, uid: str, step: int = number + 2, gate: asyncio.Semaphore = gate) -> None:
            caller = Caller(Role.ATTEMPT, tenant, "", AttemptRef(tenant, uid, 1))
            metrics = [MetricPoint(step, {"train_loss": 1.0, "learning_rate": 1e-4}, samples.NOW)]
            async with gate:
                await report_attempt(
                    fleet.context,
                    caller,
                    AttemptReport(fleet.next_report + step - 2, Progress(step, 1000, "training"), metrics),
                )

        await asyncio.gather(*(one(tenant, uid) for tenant, uid in jobs))
        count += len(jobs)
    return (time.process_time() - began) / count
