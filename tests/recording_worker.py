"""The server's end of WorkerService, which records what a job tells it."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.code_pb2 import ABORTED
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from trellis.v1 import worker_pb2
from trellis.v1.worker_pb2_grpc import WorkerServiceServicer, add_WorkerServiceServicer_to_server

TICKET = "attempt-ticket"
"""What the process is started with, for its first call."""
_BEGUN = "attempt-token"
STOP_SECONDS = 60.0


class RecordingWorker(WorkerServiceServicer):
    """Answers like the server would for one attempt; `address` stays the same when it is stopped and started again."""

    def __init__(self, work: worker_pb2.StartAttemptResponse) -> None:
        self.work = work
        self.stop: worker_pb2.StopRequest.ValueType = worker_pb2.STOP_REQUEST_UNSPECIFIED
        self.fenced = False
        self.reports: list[worker_pb2.ReportAttemptRequest] = []
        self.completed: worker_pb2.CompleteAttemptRequest | None = None
        self.failed: worker_pb2.FailAttemptRequest | None = None
        self.refuse_completion = ""
        self.starts = 0
        self._changed = asyncio.Condition()
        self._server: Any = None
        self._port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    async def up(self) -> None:
        self._server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        add_WorkerServiceServicer_to_server(self, self._server)
        self._port = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        await self._server.start()

    async def down(self) -> None:
        await self._server.stop(None)

    async def until(self, condition: Callable[["RecordingWorker"], bool], seconds: float = 60) -> None:
        """Wait until a call has made the condition true."""
        async with asyncio.timeout(seconds), self._changed:
            await self._changed.wait_for(lambda: condition(self))

    def losses(self) -> dict[int, float]:
        """By step, the first value that was reported."""
        found: dict[int, float] = {}
        for point in self._points():
            if "train_loss" in point.values:
                found.setdefault(point.step, point.values["train_loss"])
        return found

    def steps_reported(self) -> list[int]:
        return [point.step for point in self._points() if "train_loss" in point.values]

    def _points(self) -> list[Any]:
        return [point for report in self.reports for point in report.metrics]

    def checkpoints(self) -> list[worker_pb2.CommittedCheckpoint]:
        return [found for report in self.reports for found in report.checkpoints]

    def events(self) -> list[str]:
        return [event.message for report in self.reports for event in report.events]

    def log(self) -> str:
        return "".join(report.log_text for report in self.reports)

    async def StartAttempt(self, request: Any, context: Any) -> worker_pb2.StartAttemptResponse:
        await self._admit(context, TICKET)
        assert len(request.nonce) >= 32
        async with self._changed:
            self.starts += 1
            self._changed.notify_all()
        answer = worker_pb2.StartAttemptResponse(token=_BEGUN)
        answer.MergeFrom(self.work)
        return answer

    async def ReportAttempt(self, request: Any, context: Any) -> worker_pb2.ReportAttemptResponse:
        await self._admit(context)
        async with self._changed:
            if request.report == self.work.next_report + len(self.reports):
                self.reports.append(request)
            elif request.report > self.work.next_report + len(self.reports):
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "A report is missing.")
            self._changed.notify_all()
        due = STOP_SECONDS if self.stop != worker_pb2.STOP_REQUEST_UNSPECIFIED else 0.0
        return worker_pb2.ReportAttemptResponse(stop=self.stop, stop_seconds=due)

    async def CompleteAttempt(self, request: Any, context: Any) -> worker_pb2.CompleteAttemptResponse:
        await self._admit(context)
        if self.refuse_completion:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.refuse_completion)
        async with self._changed:
            self.completed = request
            self._changed.notify_all()
        return worker_pb2.CompleteAttemptResponse(adapter="tenants/acme/adapters/0")

    async def FailAttempt(self, request: Any, context: Any) -> worker_pb2.FailAttemptResponse:
        await self._admit(context)
        async with self._changed:
            self.failed = request
            self._changed.notify_all()
        return worker_pb2.FailAttemptResponse()

    async def _admit(self, context: Any, token: str = _BEGUN) -> None:
        given = dict(context.invocation_metadata()).get("authorization")
        if given != f"Bearer {token}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, f"Not this attempt's token: {given!r}.")
        if self.fenced:
            detail = AnyMessage()
            detail.Pack(ErrorInfo(reason="ATTEMPT_FENCED", domain="trellis.dev"))
            status = Status(code=ABORTED, message="Another attempt has begun.", details=[detail])
            await context.abort_with_status(rpc_status.to_status(status))
