"""What a job's end changes beside the job, an adapter, its alias, its deployment, is in the trail as the attempt's deed."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.contract.app.audited_calls import call, trail
from tests.rpc_server import Door, open_door
from tests.server_fakes import World, admit, lay_adapter, submit, upload, validate

from trellis.server.app.attempts import Process, start_attempt
from trellis.server.domain.base_model import BaseModel
from trellis.v1 import worker_pb2


@pytest.fixture
async def door(world: World, base: BaseModel) -> AsyncIterator[Door]:
    async with open_door(world) as opened:
        yield opened


async def test_what_a_job_makes_is_its_attempts_deed(door: Door, base: BaseModel, tmp_path: Path) -> None:
    world = door.world
    await validate(world.context, await upload(world.context, "acme"), base)
    job = await submit(world.context, "acme", alias="tenants/acme/aliases/support")
    door.secrets["attempt"], caller = await admit(world.context, job)
    digest = lay_adapter(world.context, await start_attempt(world.context, caller, Process()), tmp_path)
    seen = len(await trail(world))
    await call(door, "WorkerService.ReportAttempt", worker_pb2.ReportAttemptRequest(report=1), "attempt")
    assert len(await trail(world)) == seen, "reports are not audited"
    request = worker_pb2.CompleteAttemptRequest(adapter_digest=digest)
    await call(door, "WorkerService.CompleteAttempt", request, "attempt", "done")
    made = [event for event in await trail(world) if event.request_id == "done"]
    assert [event.resource for event in made] == [
        "tenants/acme/aliases/support",
        f"tenants/acme/adapters/{digest[:24]}",
    ]
    for event in made:
        assert (event.principal, event.role) == (f"attempts/{job.uid}-1", "ATTEMPT")
        assert event.method == "/trellis.v1.WorkerService/CompleteAttempt"
        assert event.before == {}
    await call(door, "WorkerService.CompleteAttempt", request, "attempt", "again")
    assert not [event for event in await trail(world) if event.request_id == "again"]
    assert hashlib.sha256(door.secrets["attempt"].encode()).hexdigest() not in str(await trail(world))
