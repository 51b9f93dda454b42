"""Tickets: what processes are started with is good for one process's first call, and for nothing else."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from tests.contract.app.audited_calls import call
from tests.contract.app.test_refusals import one_refused
from tests.contract.store import samples
from tests.rpc_server import Door, open_door, refusal
from tests.server_fakes import World, admit, submit, upload, validate

from trellis.server.app.authentication import authenticate, secret_hash
from trellis.server.app.tokens import (
    attempt_of,
    attempt_ticket,
    attempt_token,
    trainer_of,
    trainer_ticket,
    trainer_token,
)
from trellis.server.domain.base_model import BaseModel
from trellis.v1 import trainer_pb2, worker_pb2

SECRET = b""
MINE, ANOTHERS = "m" * 32, "a" * 64
TRAINER = "trainer-1"


@pytest.fixture
def database() -> str:
    """What both databases have to do with it, tests/contract/store shows."""
    return "sqlite"


@pytest.fixture
async def door(world: World, base: BaseModel) -> AsyncIterator[Door]:
    """A job with an attempt to begin, a trainer to begin, and the tickets of both."""
    await validate(world.context, await upload(world.context, "acme"), base)
    job = await submit(world.context, "acme")
    await admit(world.context, job)
    async with world.context.units() as unit:
        hashed = secret_hash(trainer_token(SECRET, TRAINER))
        trainer = samples.trainer(uid=TRAINER, token_hash=hashed, create_time=world.clock.now())
        await unit.trainers.add(trainer)
        await unit.commit()
    async with open_door(world) as opened:
        opened.secrets["attempt"] = attempt_ticket(SECRET, job.uid, 1)
        opened.secrets["trainer"] = trainer_ticket(SECRET, TRAINER)
        yield opened


async def start_attempt(door: Door, nonce: str, who: str = "attempt") -> Any:
    return await call(door, "WorkerService.StartAttempt", worker_pb2.StartAttemptRequest(nonce=nonce), who)


async def start_trainer(door: Door, nonce: str, who: str = "trainer") -> Any:
    return await call(door, "TrainerService.StartTrainer", trainer_pb2.StartTrainerRequest(nonce=nonce), who)


STARTS = {"attempt": start_attempt, "trainer": start_trainer}
REPORT = ("WorkerService.ReportAttempt", worker_pb2.ReportAttemptRequest(report=1))
CLAIM = ("TrainerService.ClaimAttempts", trainer_pb2.ClaimAttemptsRequest())
FURTHER = {
    "attempt": (
        REPORT,
        ("WorkerService.CompleteAttempt", worker_pb2.CompleteAttemptRequest()),
        ("WorkerService.FailAttempt", worker_pb2.FailAttemptRequest()),
    ),
    "trainer": (CLAIM, ("TrainerService.LeaveTrainer", trainer_pb2.LeaveTrainerRequest())),
}


async def code_of(deed: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await deed
    return refusal(caught.value).code


@pytest.mark.parametrize("who", ["attempt", "trainer"])
async def test_a_ticket_is_changed_for_the_token_that_opens_the_rest(door: Door, who: str) -> None:
    for method, request in FURTHER[who]:
        assert await code_of(call(door, method, request, who)) == "PERMISSION_DENIED", method
    door.secrets["begun"] = (await STARTS[who](door, MINE)).token
    method, request = REPORT if who == "attempt" else CLAIM
    assert await call(door, method, request, "begun") is not None
    assert (await STARTS[who](door, "", "begun")).token == "", "the token stays the same"
    for method, request in FURTHER[who]:
        assert await code_of(call(door, method, request, who)) == "PERMISSION_DENIED", method


@pytest.mark.parametrize("who", ["attempt", "trainer"])
async def test_a_repeat_of_the_same_process_is_answered_alike_and_another_is_refused(door: Door, who: str) -> None:
    first = await STARTS[who](door, MINE)
    assert await STARTS[who](door, MINE) == first
    assert await code_of(STARTS[who](door, ANOTHERS)) == "UNAUTHENTICATED"
    assert (await one_refused(door.world)).status == "UNAUTHENTICATED", "and that is in the trail"
    assert (await STARTS[who](door, MINE)).token == first.token


@pytest.mark.parametrize("who", ["attempt", "trainer"])
async def test_a_process_whose_token_was_made_before_its_start_has_it_no_longer(door: Door, who: str) -> None:
    """The token that is derived without a nonce is nobody's once the ticket was used."""
    uid, number = attempt_of(SECRET, door.secrets["attempt"]) or ("", 0)
    door.secrets["old"] = attempt_token(SECRET, uid, number) if who == "attempt" else trainer_token(SECRET, TRAINER)
    await STARTS[who](door, MINE)
    assert await code_of(STARTS[who](door, "", "old")) == "UNAUTHENTICATED"


@pytest.mark.parametrize("nonce", ["", "short", "x" * 101])
@pytest.mark.parametrize("who", ["attempt", "trainer"])
async def test_a_ticket_needs_a_nonce(door: Door, who: str, nonce: str) -> None:
    assert await code_of(STARTS[who](door, nonce)) == "INVALID_ARGUMENT"


async def test_others_tickets_open_nothing(door: Door, world: World) -> None:
    ticket, own = door.secrets["attempt"], door.secrets["trainer"]
    uid, _ = attempt_of(SECRET, ticket) or ("", 0)
    for forged in (
        attempt_ticket(b"another secret", uid, 1),
        attempt_ticket(SECRET, uid, 2),
        ticket.replace("-1-", "-2-"),
        ticket[:-1] + ("0" if ticket[-1] != "0" else "1"),
        trainer_ticket(b"another secret", TRAINER),
        trainer_ticket(SECRET, "trainer-2"),
        own[:-1],
        "trs_",
        "trs_--",
        "trs_a-9999999999-b",
        "trs_a-\u0661-b",
        "trn_",
    ):
        with pytest.raises(Exception, match="unknown"):
            await authenticate(world.context, f"Bearer {forged}")


def test_a_ticket_is_of_its_kind() -> None:
    assert attempt_of(b"s", attempt_ticket(b"s", "job-a-b", 12)) == ("job-a-b", 12)
    assert attempt_of(b"s", trainer_ticket(b"s", "job-a-1")) is None
    assert trainer_of(b"s", attempt_ticket(b"s", "job-a", 1)) is None
    assert (
        attempt_token(b"s", "job", 1) != attempt_token(b"s", "job", 1, MINE) != attempt_token(b"s", "job", 1, ANOTHERS)
    )
