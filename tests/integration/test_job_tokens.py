"""An attempt's token over a real socket: good for that attempt, until it ends."""

from dataclasses import dataclass, replace

import grpc
import pytest
from google.rpc.code_pb2 import Code
from google.rpc.status_pb2 import Status
from tests.every_method import METHODS, answer_to, name_for, request_for
from tests.rpc_server import Door, refusal
from tests.server_fakes import admit, submit, upload

from trellis.server.app.tokens import attempt_ticket, trainer_ticket
from trellis.server.app.tuning_jobs import cancel_tuning_job, delete_tuning_job
from trellis.server.domain.tuning_job import TuningJob
from trellis.v1 import access_pb2, worker_pb2
from trellis.v1.worker_pb2_grpc import WorkerServiceStub

FAILED = worker_pb2.FailAttemptRequest(
    error=Status(code=Code.INTERNAL, message="It broke."), cause=worker_pb2.END_CAUSE_INFRASTRUCTURE
)
EVERYTHING = {
    "StartAttempt": worker_pb2.StartAttemptRequest(code_version="v1"),
    "ReportAttempt": worker_pb2.ReportAttemptRequest(report=1, log_text="hello\n"),
    "CompleteAttempt": worker_pb2.CompleteAttemptRequest(adapter_digest="0" * 64),
    "FailAttempt": FAILED,
}


@pytest.fixture
async def door(door: Door) -> Door:
    """With a dataset of each tenant."""
    for tenant in ("acme", "globex"):
        await upload(door.world.context, tenant)
    return door


@dataclass(frozen=True, slots=True)
class Process:
    """What has a token."""

    stub: WorkerServiceStub
    token: str

    async def say(self, method: str) -> str:
        """Call, and return the status, or the reason of a refusal."""
        call = getattr(self.stub, method)
        try:
            await call(EVERYTHING[method], metadata=(("authorization", f"Bearer {self.token}"),))
        except grpc.aio.AioRpcError as error:
            said = refusal(error)
            return f"{said.code} {said.reason}"
        return "OK"

    async def everything(self) -> set[str]:
        return {await self.say(method) for method in EVERYTHING}


async def started(door: Door, tenant: str = "acme", job: TuningJob | None = None) -> tuple[Process, TuningJob]:
    job = job or await submit(door.world.context, tenant)
    token, _ = await admit(door.world.context, job)
    process = Process(WorkerServiceStub(door.channel), token)
    assert await process.say("StartAttempt") == "OK"
    return process, job


async def now(door: Door, job: TuningJob) -> TuningJob:
    async with door.world.context.units(write=False) as unit:
        found = await unit.jobs.get_by_uid(job.uid)
    assert found is not None
    return found


async def test_a_token_dies_with_its_attempt_and_the_next_one_has_its_own(door: Door) -> None:
    first, job = await started(door)
    assert await first.say("ReportAttempt") == "OK"
    assert await first.say("FailAttempt") == "OK"
    assert await first.everything() == {"ABORTED ATTEMPT_FENCED"}

    second, _ = await started(door, job=await now(door, job))
    assert second.token != first.token
    before = await now(door, job)
    assert await first.everything() == {"ABORTED ATTEMPT_FENCED"}
    assert await now(door, job) == before  # the old one's words left nothing behind
    assert await second.say("ReportAttempt") == "OK"


async def test_a_token_is_fenced_as_soon_as_another_attempt_began(door: Door) -> None:
    first, job = await started(door)
    async with door.world.context.units() as unit:  # as the reaper does with an attempt that has gone silent
        present = await unit.jobs.get_by_uid(job.uid, for_update=True)
        assert present is not None
        await unit.jobs.save(replace(present, attempt_count=present.attempt_count + 1), [])
        await unit.commit()
    assert await first.everything() == {"ABORTED ATTEMPT_FENCED"}


async def test_a_token_dies_with_its_job(door: Door) -> None:
    process, job = await started(door)
    waiting = await submit(door.world.context, "acme")
    await cancel_tuning_job(door.world.context, job.name)
    assert await process.say("ReportAttempt") == "OK"  # it is asked to stop, and may still say what it did
    assert await process.say("FailAttempt") == "OK"
    assert (await now(door, job)).ended
    assert await process.everything() == {"ABORTED ATTEMPT_FENCED"}
    await delete_tuning_job(door.world.context, job.name, "")
    assert await process.everything() == {"UNAUTHENTICATED API_KEY_INVALID"}
    assert not (await now(door, waiting)).ended


async def test_a_token_speaks_of_its_own_attempt_alone(door: Door) -> None:
    mine, _ = await started(door)
    theirs, other = await started(door, "globex")
    assert await mine.say("FailAttempt") == "OK"
    assert (await now(door, other)).attempt_count == 1
    assert await theirs.say("ReportAttempt") == "OK"
    assert await mine.say("ReportAttempt") == "ABORTED ATTEMPT_FENCED"


async def test_neither_tokens_nor_tickets_open_other_services(door: Door) -> None:
    process, job = await started(door)
    door.secrets.update(
        {"token": process.token, "ticket": attempt_ticket(b"", job.uid, 1), "elsewhere": trainer_ticket(b"", "t")}
    )
    for method in METHODS:
        name = name_for(method, "acme", {"tuning_job": job.name.rpartition("/")[2]})
        found = {
            who: (await answer_to(door, method, who, request_for(method, name))).status for who in ("token", "ticket")
        }
        is_own = method.access.role == access_pb2.ROLE_ATTEMPT
        assert (found["token"] == "PERMISSION_DENIED") != is_own, method.path
        assert (found["ticket"] == "PERMISSION_DENIED") != (is_own and method.access.ticket_allowed), method.path
        assert (await answer_to(door, method, "elsewhere", request_for(method, name))).status == "UNAUTHENTICATED"
