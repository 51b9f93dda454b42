"""Waiting until an installation that nobody disturbs any more has come to rest."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import trellis
from tests.chaos.installation import Installation
from tests.chaos.load import Tenant
from trellis.client.types import Deployment, JobState
from trellis.errors import TrellisError

SETTLE_SECONDS: Final = 900.0
"""Generous, for busy machines: Ray alone may need minutes to come back on one."""
_SAY_SECONDS: Final = 10.0

Looks = Callable[[], Awaitable[str]]
"""What is still to come, as a sentence; empty when nothing is."""


async def until_rest(what: str, look: Looks, say: Callable[[str], None], seconds: float = SETTLE_SECONDS) -> None:
    """Look until nothing is still to come; raises AssertionError with the last look's sentence."""
    deadline, said = time.monotonic() + seconds, time.monotonic()
    while left := await _looked(look):
        assert time.monotonic() < deadline, f"{what}: not at rest after {seconds:.0f} s: {left}"
        if time.monotonic() > said + _SAY_SECONDS:
            said = time.monotonic()
            say(f"waiting until {what}: {left}")
        await asyncio.sleep(0.5)


async def _looked(look: Looks) -> str:
    try:
        return await look()
    except TrellisError as error:
        return f"{error.reason}: {error}"


async def settle(there: Installation, tenants: list[Tenant], say: Callable[[str], None]) -> None:
    """Servers serve, jobs have ended, engine and adapters are there."""
    await there.until_servers_serve()

    async def jobs() -> str:
        left = []
        for tenant in tenants:
            async for job in tenant.client.jobs.list():
                if job.state is JobState.PAUSED:  # its owner's wish to go on was lost
                    await tenant.client.jobs.resume(job.name)
                if not job.state.ended:
                    waits = f" ({job.queue_reason.message})" if job.queue_reason else ""
                    left.append(f"{job.name} is {job.state}{waits}")
        return "; ".join(left)

    async def engine() -> str:
        for tenant in tenants:
            answer = await tenant.client.generate("baseModels/trellis-tiny", "hello", max_tokens=1, timeout=20)
            assert answer.usage.completion_tokens == 1
        return ""

    async def adapters() -> str:
        return "; ".join([a.name for a in await _adapters(tenants) if a.deployment is Deployment.DEPLOYING])

    await until_rest("all jobs have ended", jobs, say)
    await until_rest("the engine answers", engine, say)
    await until_rest("no adapter is being deployed", adapters, say)


async def _adapters(tenants: list[Tenant]) -> list[trellis.Adapter]:
    return [adapter for tenant in tenants async for adapter in tenant.client.adapters.list()]
