"""Streams whose key opens nothing any more."""

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from tests.contract.store.conftest import engine, migrated_url, sqlite_template, units
from tests.rpc_server import Door, make_named_key, open_door, refusal
from tests.server_fakes import make_world, prepare, submit, upload

from trellis.server.app.api_keys import revoke_api_key
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.app.tuning_jobs import cancel_tuning_job
from trellis.server.domain.caller import Role
from trellis.v1 import tuning_job_pb2
from trellis.v1.tuning_job_pb2_grpc import TuningJobServiceStub

__all__ = ["engine", "migrated_url", "sqlite_template", "units"]


@pytest.fixture
def database() -> str:
    return "sqlite"


@pytest.fixture
async def door(units: UnitOfWorkFactory, tmp_path: Path) -> AsyncIterator[Door]:
    world = make_world(units, tmp_path)
    await prepare(world.context, "acme", "globex")
    await upload(world.context, "acme")
    async with open_door(world) as opened:
        yield opened


@pytest.mark.parametrize("revoked", [False, True])
async def test_a_watch_is_told_nothing_a_minute_after_its_key_was_revoked(door: Door, revoked: bool) -> None:
    context = door.world.context
    job = await submit(context, "acme")
    name, secret = await make_named_key(door.world, "acme", Role.MEMBER)

    async def meanwhile() -> None:
        if revoked:
            await revoke_api_key(context, name)
        door.world.clock.advance(61)
        await cancel_tuning_job(context, job.name)

    door.world.waiter.steps.append(meanwhile)
    request = tuning_job_pb2.WatchTuningJobRequest(name=job.name)
    watch = TuningJobServiceStub(door.channel).WatchTuningJob(
        request, metadata=(("authorization", f"Bearer {secret}"),)
    )
    assert (await watch.read()).sequence == 1
    if not revoked:
        assert (await watch.read()).sequence == 2
        return
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.read()
    said = refusal(caught.value)
    assert (said.code, said.reason) == ("UNAUTHENTICATED", "API_KEY_REVOKED")
