"""Streams whose key opens nothing any more."""

import grpc
import pytest
from tests.rpc_server import Door, make_named_key, refusal
from tests.server_fakes import submit, upload

from trellis.server.app.api_keys import revoke_api_key
from trellis.server.app.tuning_jobs import cancel_tuning_job
from trellis.server.domain.caller import Role
from trellis.v1 import tuning_job_pb2
from trellis.v1.tuning_job_pb2_grpc import TuningJobServiceStub


@pytest.fixture
async def door(door: Door) -> Door:
    """With a dataset."""
    await upload(door.world.context, "acme")
    return door


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
    assert (await watch.read()).sequence == 1  # type: ignore[attr-defined]
    if not revoked:
        assert (await watch.read()).sequence == 2  # type: ignore[attr-defined]
        return
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.read()
    said = refusal(caught.value)
    assert (said.code, said.reason) == ("UNAUTHENTICATED", "API_KEY_REVOKED")
