"""A queued job explained from the rows, as the scheduler sees them."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.control.platform import Platform
from tests.contract.control.test_rounds import add_tenants
from tests.contract.store import samples
from tests.contract.store.test_queue_facts import statements_of
from tests.rpc_server import stop
from tests.server_fakes import ADMIN

from trellis.client import AsyncClient
from trellis.client.types import JobState as ClientJobState
from trellis.errors import NotFound, PermissionDenied
from trellis.server.app.api_keys import NewApiKey, create_api_key
from trellis.server.app.context import Context
from trellis.server.app.explanations import explain_tuning_job
from trellis.server.app.outlooks import Outlooks
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.control.queue_view import QueueView
from trellis.server.domain.caller import Role
from trellis.server.domain.quota import UNLIMITED
from trellis.server.domain.tuning_job import Estimate, JobState, QueueCode, TuningJob
from trellis.server.rpc.convert.explanation import explanation
from trellis.server.rpc.server import build_grpc_server
from trellis.spec import Distributed
from trellis.v1 import tuning_job_pb2 as pb

HOUR = Estimate(accelerators=1.0, seconds=3600.0, accelerator_seconds=3600.0, trained_tokens=1000)


def gang(number: int, workers: int, of: str = "acme") -> TuningJob:
    spec = samples.spec(of=of, distributed=Distributed(workers=workers))
    return samples.job(number, of, spec=spec, estimate=HOUR, seconds=number)


def explaining(platform: Platform) -> Context:
    control = platform.control()
    return replace(platform.app, outlooks=Outlooks(QueueView(control).look, platform.clock))


@pytest.fixture
async def queue(units: UnitOfWorkFactory, tmp_path: Path) -> Platform:
    """Three CPUs, one of them free: a job of one tenant runs on two, and jobs of two tenants wait."""
    platform = Platform(units, tmp_path, capacity_cpus=3.0, tenant_running_limit=10)
    await platform.prepare()
    await add_tenants(units, "globex", quota=UNLIMITED)
    await platform.add_jobs(gang(1, 2))
    await platform.server().admit.once()
    await platform.add_jobs(gang(2, 2, "globex"), gang(3, 2), gang(4, 3), gang(5, 2))
    return platform


def fields(shown: pb.TuningJobExplanation) -> Mapping[str, object]:
    return {field.name: value for field, value in shown.ListFields()}


async def test_a_job_says_why_it_waits_and_what_would_let_it_start(queue: Platform) -> None:
    found = await explain_tuning_job(explaining(queue), "tenants/acme/tuningJobs/job-5")
    shown = explanation(found)
    assert shown.state == pb.TuningJob.STATE_QUEUED
    assert QueueCode.CAPACITY in {reason.code for reason in found.explanation.reasons}
    assert (shown.position, shown.other_jobs_before) == (3, 1)
    assert list(shown.own_jobs_before) == ["tenants/acme/tuningJobs/job-3", "tenants/acme/tuningJobs/job-4"]
    # The running job ends in an hour; three others of an hour each, that can't run beside each other, stand before it.
    wait = shown.predicted_start_time.seconds - shown.time.seconds
    assert 3 * 3600 <= wait <= 4.1 * 3600
    assert shown.earliest_start_time.seconds < shown.predicted_start_time.seconds < shown.latest_start_time.seconds
    assert "globex" not in str(shown)


async def test_fewer_workers_are_offered_only_when_they_would_start(queue: Platform) -> None:
    first = await explain_tuning_job(explaining(queue), "tenants/globex/tuningJobs/job-2")
    offered = [(change.field, change.value, change.message) for change in first.changes]
    assert offered == [("distributed.workers", "1", "With 1 worker instead of 2 it would start now.")]
    await queue.add_jobs(gang(6, 1, "globex"))
    await queue.server().admit.once()
    assert (await queue.job("uid-globex-6")).state is JobState.STARTING
    queue.clock.pass_seconds(3)
    full = await explain_tuning_job(explaining(queue), "tenants/globex/tuningJobs/job-2")
    assert "now" not in str([change.message for change in full.changes])


async def test_what_does_not_wait_has_only_a_state(queue: Platform) -> None:
    shown = explanation(await explain_tuning_job(explaining(queue), "tenants/acme/tuningJobs/job-1"))
    assert fields(shown).keys() == {"tuning_job", "state", "time"}
    assert shown.state == pb.TuningJob.STATE_STARTING
    with pytest.raises(NotFound):
        await explain_tuning_job(explaining(queue), "tenants/acme/tuningJobs/none")


async def test_many_who_ask_share_one_look_for_two_seconds(queue: Platform, engine: AsyncEngine) -> None:
    context = explaining(queue)

    async def asked(number: int) -> int:
        with statements_of(engine) as seen:
            await explain_tuning_job(context, f"tenants/acme/tuningJobs/job-{number}")
        return len(seen)

    first, second, again = await asked(5), await asked(3), await asked(5)
    assert first > second == again
    queue.clock.pass_seconds(2)
    assert await asked(5) == first
    await queue.add_jobs(gang(7, 2))
    assert await asked(7) == first  # a job that came since is not told that nobody knows it


async def test_explaining_changes_nothing(queue: Platform) -> None:
    before = [await queue.job(f"uid-acme-{number}") for number in (3, 4, 5)]
    await explain_tuning_job(explaining(queue), "tenants/acme/tuningJobs/job-5")
    assert [await queue.job(f"uid-acme-{number}") for number in (3, 4, 5)] == before


async def test_a_server_that_does_not_schedule_says_what_was_last_said(queue: Platform) -> None:
    await queue.server().admit.once()
    found = await explain_tuning_job(queue.app, "tenants/acme/tuningJobs/job-5")
    kept = (await queue.job("uid-acme-5")).queue_reason
    assert kept is not None
    assert [reason.message for reason in found.explanation.reasons] == [kept.message]
    assert found.explanation.prediction is None


async def test_over_the_wire_a_tenant_is_told_of_its_own_jobs_only(queue: Platform) -> None:
    context = explaining(queue)
    keys = {}
    for tenant in ("acme", "globex"):
        _, keys[tenant] = await create_api_key(context, ADMIN, NewApiKey(f"tenants/{tenant}", "", Role.MEMBER, None))
    server = build_grpc_server(context)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with AsyncClient(f"127.0.0.1:{port}", keys["globex"], tenant="globex") as client:
            found = await client.jobs.explain("job-2")
            with pytest.raises(PermissionDenied):
                await client.jobs.explain("tenants/acme/tuningJobs/job-5")
    finally:
        await stop(context, server)
    assert (found.state, found.position) == (ClientJobState.QUEUED, 0)
    assert [change.field for change in found.alternatives] == ["distributed.workers"]
    assert "acme" not in repr(found)
