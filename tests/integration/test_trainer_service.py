"""TrainerService over a real socket, with real admission behind it: a trainer is started, given jobs, and let go."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY
from tests.contract.control.platform import SETTINGS, FakeIds
from tests.job_cluster_fake import FakeJobCluster
from tests.rpc_server import Door, open_door, refusal
from tests.server_fakes import make_world, prepare, submit, upload, validate

from trellis.server.app.context import AppSettings
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.app.waiting import Pause
from trellis.server.control.admit import AdmitJobs
from trellis.server.control.context import ControlContext
from trellis.server.control.launch_trainers import LaunchTrainers
from trellis.server.control.metrics import MeasureTrainers
from trellis.server.control.watch_trainers import WatchTrainers
from trellis.server.domain.tuning_job import TuningJob
from trellis.server.world import SystemClock, ThreadedObjects
from trellis.v1 import trainer_pb2 as pb, worker_pb2
from trellis.v1.trainer_pb2_grpc import TrainerAdminServiceStub, TrainerServiceStub
from trellis.v1.worker_pb2_grpc import WorkerServiceStub

ROOM = pb.TrainerRoom(jobs=4, rank_rows=64, line_tokens=4096)


NONCE = "n" * 32


@dataclass
class Scene:
    """A server with a valid dataset, its loops, and a cluster that the test plays."""

    door: Door
    control: ControlContext
    cluster: FakeJobCluster

    @property
    def trainers(self) -> Any:
        return TrainerServiceStub(self.door.channel)

    @property
    def workers(self) -> Any:
        return WorkerServiceStub(self.door.channel)

    async def submit(self, **changes: object) -> TuningJob:
        return await submit(self.door.world.context, "acme", **changes)

    async def admit(self) -> None:
        await AdmitJobs(self.control).once()

    async def launched(self) -> tuple[tuple[str, str], ...]:
        """The metadata of the one trainer that was launched: its ticket."""
        await LaunchTrainers(self.control).once()
        (run,) = self.cluster.alive()
        return bearer(self.cluster.runs[run].request.environment["TRELLIS_TRAINER_TICKET"])

    async def started(self) -> tuple[tuple[str, str], ...]:
        """The metadata of the one trainer that was launched, and has made its first call."""
        request = pb.StartTrainerRequest(nonce=NONCE)
        return bearer((await self.trainers.StartTrainer(request, metadata=await self.launched())).token)

    async def until_one_waits(self) -> None:
        """Until a trainer has been heard, and waits for jobs."""
        async with asyncio.timeout(30):
            while not len(self.door.world.context.trainers):
                await asyncio.sleep(0.005)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture
async def scene(sqlite_units: UnitOfWorkFactory, tmp_path: Path) -> AsyncIterator[Scene]:
    settings = AppSettings(server_secret=SETTINGS.server_secret)
    world = make_world(sqlite_units, tmp_path, settings)
    clock = SystemClock()
    world = replace(world, context=replace(world.context, clock=clock, claim_wait=Pause(0.02)))
    base = await prepare(world.context, "acme", "globex")
    await validate(world.context, await upload(world.context, "acme"), base)
    cluster = FakeJobCluster()
    objects = ThreadedObjects(world.store)
    control = ControlContext(sqlite_units, clock, FakeIds(), cluster, world.engines, objects, SETTINGS)
    async with open_door(world) as door:
        yield Scene(door, control, cluster)


async def refused(call: Any) -> Any:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return refusal(caught.value)


async def test_a_trainer_is_started_for_a_job_and_given_it(scene: Scene) -> None:
    job = await scene.submit()
    await scene.admit()
    ticket = await scene.launched()
    request = pb.StartTrainerRequest(hostname="here", pid=7, nonce=NONCE)
    setup = await scene.trainers.StartTrainer(request, metadata=ticket)
    me = bearer(setup.token)
    assert setup.base_model == job.spec.base_model
    assert (setup.base_source, setup.base_revision) == (job.spec.base_source, job.spec.base_revision)
    assert setup.tokenizer_digest == job.spec.tokenizer_digest
    assert (setup.precision, setup.workers, setup.worker_cpus, setup.worker_gpus) == ("auto", 1, 1.0, 0.0)
    assert (setup.heartbeat_seconds, setup.idle_seconds, setup.max_jobs) == (10.0, 300.0, 16)
    assert setup.store_url == scene.door.world.store.url
    claimed = await scene.trainers.ClaimAttempts(pb.ClaimAttemptsRequest(room=ROOM, wait_seconds=9), metadata=me)
    (given,) = claimed.attempts
    assert (given.tuning_job, given.attempt, claimed.drain) == (job.name, 1, False)
    work = await scene.workers.StartAttempt(worker_pb2.StartAttemptRequest(), metadata=bearer(given.token))
    assert work.tuning_job == job.name
    report = worker_pb2.ReportAttemptRequest(report=1)
    answer = await scene.workers.ReportAttempt(report, metadata=bearer(given.token))
    assert answer.stop == worker_pb2.STOP_REQUEST_UNSPECIFIED


async def test_a_warm_trainer_hears_of_a_job_within_a_moment(scene: Scene) -> None:
    await scene.submit()
    await scene.admit()
    me = await scene.started()
    (first,) = (await scene.trainers.ClaimAttempts(pb.ClaimAttemptsRequest(room=ROOM), metadata=me)).attempts
    await scene.workers.StartAttempt(worker_pb2.StartAttemptRequest(), metadata=bearer(first.token))
    request = pb.ClaimAttemptsRequest(room=ROOM, jobs=1, wait_seconds=9)
    waiting = asyncio.ensure_future(scene.trainers.ClaimAttempts(request, metadata=me))
    second = await scene.submit()
    await scene.admit()
    claimed = await asyncio.wait_for(waiting, 5)
    assert [one.tuning_job for one in claimed.attempts] == [second.name]


async def test_a_wait_without_a_job_ends(scene: Scene) -> None:
    await scene.submit()
    await scene.admit()
    me = await scene.started()
    for request in (pb.ClaimAttemptsRequest(wait_seconds=0.1), pb.ClaimAttemptsRequest(wait_seconds=float("nan"))):
        claimed = await asyncio.wait_for(scene.trainers.ClaimAttempts(request, metadata=me), 5)
        assert (list(claimed.attempts), claimed.drain) == ([], False), "it has no room yet"


async def test_a_trainer_leaves_and_is_fenced_from_then_on(scene: Scene) -> None:
    await scene.submit()
    await scene.admit()
    me = await scene.started()
    assert not (await scene.trainers.LeaveTrainer(pb.LeaveTrainerRequest(), metadata=me)).leave
    (given,) = (await scene.trainers.ClaimAttempts(pb.ClaimAttemptsRequest(room=ROOM), metadata=me)).attempts
    declined = worker_pb2.FailAttemptRequest(cause=worker_pb2.END_CAUSE_DECLINED)
    declined.error.message = "No room."
    await scene.workers.FailAttempt(declined, metadata=bearer(given.token))
    assert (await scene.trainers.LeaveTrainer(pb.LeaveTrainerRequest(), metadata=me)).leave
    for call in (
        scene.trainers.StartTrainer(pb.StartTrainerRequest(), metadata=me),
        scene.trainers.ClaimAttempts(pb.ClaimAttemptsRequest(room=ROOM), metadata=me),
        scene.trainers.LeaveTrainer(pb.LeaveTrainerRequest(), metadata=me),
    ):
        said = await refused(call)
        assert (said.code, said.reason) == ("ABORTED", "ATTEMPT_FENCED")


async def test_a_trainer_that_is_lost_while_it_waits_hears_of_it(scene: Scene) -> None:
    await scene.submit()
    await scene.admit()
    me = await scene.started()
    (given,) = (await scene.trainers.ClaimAttempts(pb.ClaimAttemptsRequest(room=ROOM), metadata=me)).attempts
    await scene.workers.StartAttempt(worker_pb2.StartAttemptRequest(), metadata=bearer(given.token))
    request = pb.ClaimAttemptsRequest(room=ROOM, jobs=1, wait_seconds=9)
    waiting = asyncio.ensure_future(scene.trainers.ClaimAttempts(request, metadata=me))
    await scene.until_one_waits()  # from then on it renews no lease: one that is renewed while the loop looks goes on
    scene.cluster.restart()
    await WatchTrainers(scene.control).once()
    assert (await asyncio.wait_for(refused(waiting), 5)).code == "ABORTED"
    said = await refused(
        scene.workers.ReportAttempt(worker_pb2.ReportAttemptRequest(report=1), metadata=bearer(given.token))
    )
    assert said.code == "ABORTED"


async def test_a_trainer_may_call_nothing_else(scene: Scene) -> None:
    await scene.submit()
    await scene.admit()
    me = await scene.started()
    said = await refused(scene.workers.StartAttempt(worker_pb2.StartAttemptRequest(), metadata=me))
    assert said.code == "PERMISSION_DENIED"
    for who in ("admin", "member"):
        said = await refused(scene.trainers.StartTrainer(pb.StartTrainerRequest(), metadata=scene.door.key(who)))
        assert said.code == "PERMISSION_DENIED"


async def test_operators_see_the_trainers_and_what_they_do(scene: Scene) -> None:
    for _ in range(2):
        await scene.submit()
    await scene.admit()
    request = pb.StartTrainerRequest(hostname="node-1", nonce=NONCE)
    started = await scene.trainers.StartTrainer(request, metadata=await scene.launched())
    me = bearer(started.token)
    word = pb.ClaimAttemptsRequest(room=ROOM, jobs=1, tokens_per_second=81.5)
    await scene.trainers.ClaimAttempts(word, metadata=me)
    stub, admin = TrainerAdminServiceStub(scene.door.channel), scene.door.key("admin")
    (seen,) = (await stub.ListTrainers(pb.ListTrainersRequest(), metadata=admin)).trainers
    assert (seen.name, seen.base_model) == (f"trainers/{started.trainer}", started.base_model)
    assert (seen.state, seen.jobs, seen.room) == (pb.Trainer.STATE_RUNNING, 2, ROOM)
    assert (seen.tokens_per_second, seen.hostname, seen.workers, seen.cpus) == (81.5, "node-1", 1, 1.0)
    await MeasureTrainers(scene.control).once()
    base, labels = started.base_model, {"base_model": started.base_model}
    assert REGISTRY.get_sample_value("trellis_trainers", {**labels, "state": "RUNNING"}) == 1
    assert REGISTRY.get_sample_value("trellis_trainer_jobs", labels) == 2
    assert REGISTRY.get_sample_value("trellis_trainer_tokens_per_second", {"base_model": base}) == 81.5
    assert REGISTRY.get_sample_value("trellis_trainer_room", {**labels, "of": "rank_rows"}) == ROOM.rank_rows
    silent = REGISTRY.get_sample_value("trellis_trainer_silent_seconds", labels)
    assert silent is not None
    assert 0 <= silent < scene.control.settings.lease.total_seconds()
    said = await refused(stub.ListTrainers(pb.ListTrainersRequest(), metadata=scene.door.key("tenant-admin")))
    assert said.code == "PERMISSION_DENIED"


async def test_claims_that_are_given_up_at_any_moment_harm_nobody(scene: Scene) -> None:
    """A trainer ends a wait whenever its room changes; whatever the server was doing then, it goes on to work."""
    await scene.submit()
    await scene.admit()
    me = await scene.started()
    (given,) = (await scene.trainers.ClaimAttempts(pb.ClaimAttemptsRequest(room=ROOM), metadata=me)).attempts
    await scene.workers.StartAttempt(worker_pb2.StartAttemptRequest(), metadata=bearer(given.token))
    for number in range(120):
        waiting = scene.trainers.ClaimAttempts(pb.ClaimAttemptsRequest(room=ROOM, jobs=1, wait_seconds=9), metadata=me)
        await asyncio.wait([asyncio.ensure_future(_settled(waiting))], timeout=0.0005 * (number % 60))
        waiting.cancel()
    room = pb.TrainerRoom(jobs=3, rank_rows=48, line_tokens=4096)
    await scene.trainers.ClaimAttempts(pb.ClaimAttemptsRequest(room=room, jobs=1), metadata=me)
    second = await scene.submit()
    await scene.admit()
    (claimed,) = (await scene.trainers.ClaimAttempts(pb.ClaimAttemptsRequest(room=room, jobs=1), metadata=me)).attempts
    assert claimed.tuning_job == second.name


async def _settled(call: Any) -> None:
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
        await call
