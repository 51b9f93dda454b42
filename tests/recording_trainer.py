"""The server's end of TrainerService and WorkerService, which gives attempts to a trainer and records what it tells."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc.error_details_pb2 import ErrorInfo

from trellis.v1 import trainer_pb2, worker_pb2
from trellis.v1.trainer_pb2_grpc import TrainerServiceServicer, add_TrainerServiceServicer_to_server
from trellis.v1.worker_pb2_grpc import WorkerServiceServicer, add_WorkerServiceServicer_to_server

TRAINER_TICKET = "trainer-ticket"
"""What the process is started with, for its first call."""
_BEGUN = "trainer-token"


@dataclass
class Recorded:
    """One attempt: its work, what it is to hear, and what it told."""

    work: worker_pb2.StartAttemptResponse
    stop: int = worker_pb2.STOP_REQUEST_UNSPECIFIED
    fenced: bool = False
    refuse_completion: str = ""
    starts: int = 0
    reports: list[worker_pb2.ReportAttemptRequest] = field(default_factory=list)
    completed: worker_pb2.CompleteAttemptRequest | None = None
    failed: worker_pb2.FailAttemptRequest | None = None

    @property
    def token(self) -> str:
        return f"{self.work.tuning_job} {self.work.attempt}"

    @property
    def given(self) -> bool:
        """Whether it was taken up, or declined."""
        return bool(self.starts or self.failed)

    @property
    def over(self) -> bool:
        return bool(self.completed or self.failed)

    def points(self) -> list[Any]:
        return [point for report in self.reports for point in report.metrics]

    def steps(self) -> list[int]:
        return [point.step for point in self.points() if "train_loss" in point.values]

    def losses(self) -> dict[int, float]:
        return {point.step: point.values["train_loss"] for point in self.points() if "train_loss" in point.values}

    def valid_losses(self) -> dict[int, float]:
        return {point.step: point.values["valid_loss"] for point in self.points() if "valid_loss" in point.values}

    def checkpoints(self) -> list[worker_pb2.CommittedCheckpoint]:
        return [found for report in self.reports for found in report.checkpoints]

    def events(self) -> list[str]:
        return [event.message for report in self.reports for event in report.events]

    def log(self) -> str:
        return "".join(report.log_text for report in self.reports)

    def phases(self) -> list[str]:
        phases = [report.progress.phase for report in self.reports if report.HasField("progress")]
        return list(dict.fromkeys(phases))

    def reason(self) -> str:
        assert self.failed is not None
        info = ErrorInfo()
        assert self.failed.error.details[0].Unpack(info)
        return info.reason


class RecordingPlatform(TrainerServiceServicer, WorkerServiceServicer):
    """Answers like the server would; gives each attempt while there is room for a job."""

    def __init__(self, start: trainer_pb2.StartTrainerResponse) -> None:
        self.start = start
        self.attempts: list[Recorded] = []
        self.drain = False
        self.left = False
        self.claims: list[trainer_pb2.ClaimAttemptsRequest] = []
        self.given: dict[str, float] = {}
        self.heedless = False
        """Gives attempts even where no room was told of."""
        self.fenced = False
        self._changed = asyncio.Condition()
        self._server: Any = None
        self._port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def up(self) -> None:
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        add_TrainerServiceServicer_to_server(self, self._server)
        add_WorkerServiceServicer_to_server(self, self._server)
        self._port = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        await self._server.start()

    async def down(self) -> None:
        await self._server.stop(None)

    async def give(self, *works: worker_pb2.StartAttemptResponse) -> list[Recorded]:
        added = [Recorded(work) for work in works]
        async with self._changed:
            self.attempts += added
            self._changed.notify_all()
        return added

    async def until(self, condition: Callable[[], bool], seconds: float = 90) -> None:
        """Wait until a call has made the condition true."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(condition)

    # TrainerService

    async def StartTrainer(self, request: Any, context: Any) -> trainer_pb2.StartTrainerResponse:
        await self._admit_trainer(context, TRAINER_TICKET)
        assert len(request.nonce) >= 32
        answer = trainer_pb2.StartTrainerResponse(token=_BEGUN)
        answer.MergeFrom(self.start)
        return answer

    async def ClaimAttempts(self, request: Any, context: Any) -> trainer_pb2.ClaimAttemptsResponse:
        await self._admit_trainer(context)
        async with self._changed:
            self.claims.append(request)
            self._changed.notify_all()
            try:
                async with asyncio.timeout(request.wait_seconds):
                    await self._changed.wait_for(lambda: bool(self._waiting(request)) or self.drain)
            except TimeoutError:
                pass
            found = self._waiting(request)
            for attempt in found:
                self.given.setdefault(attempt.token, asyncio.get_running_loop().time())
        attempts = [
            trainer_pb2.ClaimedAttempt(token=a.token, tuning_job=a.work.tuning_job, attempt=a.work.attempt)
            for a in found
        ]
        return trainer_pb2.ClaimAttemptsResponse(attempts=attempts, drain=self.drain)

    async def LeaveTrainer(self, request: Any, context: Any) -> trainer_pb2.LeaveTrainerResponse:
        await self._admit_trainer(context)
        async with self._changed:
            self.left = self.fenced = all(attempt.given for attempt in self.attempts)
            self._changed.notify_all()
        return trainer_pb2.LeaveTrainerResponse(leave=self.left)

    def _waiting(self, request: Any) -> list[Recorded]:
        if not request.HasField("room"):
            return []
        waiting = [attempt for attempt in self.attempts if not attempt.given]
        return waiting if self.heedless else waiting[: request.room.jobs]

    # WorkerService

    async def StartAttempt(self, request: Any, context: Any) -> worker_pb2.StartAttemptResponse:
        attempt = await self._admit(context)
        async with self._changed:
            attempt.starts += 1
            self._changed.notify_all()
        return attempt.work

    async def ReportAttempt(self, request: Any, context: Any) -> worker_pb2.ReportAttemptResponse:
        attempt = await self._admit(context)
        expected = attempt.work.next_report + len(attempt.reports)
        if request.report > expected:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "A report is missing.")
        async with self._changed:
            if request.report == expected:
                attempt.reports.append(request)
            self._changed.notify_all()
        return worker_pb2.ReportAttemptResponse(stop=attempt.stop, stop_seconds=30 if attempt.stop else 0)

    async def CompleteAttempt(self, request: Any, context: Any) -> worker_pb2.CompleteAttemptResponse:
        attempt = await self._admit(context)
        if attempt.refuse_completion:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, attempt.refuse_completion)
        async with self._changed:
            attempt.completed = request
            self._changed.notify_all()
        return worker_pb2.CompleteAttemptResponse(adapter="tenants/acme/adapters/0")

    async def FailAttempt(self, request: Any, context: Any) -> worker_pb2.FailAttemptResponse:
        attempt = await self._admit(context)
        async with self._changed:
            attempt.failed = request
            self._changed.notify_all()
        return worker_pb2.FailAttemptResponse()

    async def _admit_trainer(self, context: Any, token: str = _BEGUN) -> None:
        given = dict(context.invocation_metadata()).get("authorization")
        if given != f"Bearer {token}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, f"Not this trainer's token: {given!r}.")
        if self.fenced:
            await context.abort(grpc.StatusCode.ABORTED, "The trainer is over.")

    async def _admit(self, context: Any) -> Recorded:
        given = dict(context.invocation_metadata()).get("authorization")
        for attempt in self.attempts:
            if given == f"Bearer {attempt.token}" and not attempt.fenced:
                return attempt
        await context.abort(grpc.StatusCode.ABORTED, "Another attempt has begun.")
        raise AssertionError
