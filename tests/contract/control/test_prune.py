"""What nobody asks for any more is forgotten: creates after a week, a batch in each round."""

import pytest
from tests.contract.control.platform import Platform

from trellis.server.control import prune
from trellis.server.control.prune import Prune
from trellis.server.domain.remembered_request import RememberedRequest

DAY = 86400
SCOPE = "CreateTuningJob tenants/acme"


async def test_creates_may_be_repeated_for_seven_days(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prune, "_BATCH", 2)
    step = Prune(platform.control())
    async with platform.units() as unit:
        for number in range(3):
            request = RememberedRequest(SCOPE, f"r-{number}", "f" * 64, "tenants/acme/job", platform.clock.now())
            await unit.requests.add(request)
        await unit.commit()

    async def remembered() -> int:
        async with platform.units(write=False) as unit:
            return sum([await unit.requests.get(SCOPE, f"r-{number}") is not None for number in range(3)])

    platform.clock.pass_seconds(7 * DAY)
    assert not await step.once()
    assert await remembered() == 3
    platform.clock.pass_seconds(1)
    assert await step.once(), "there may be more"
    assert await remembered() == 1
    assert not await step.once()
    assert await remembered() == 0
