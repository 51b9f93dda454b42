"""WorkerService."""

from trellis.server.app import attempts, completion, progress
from trellis.server.app.context import Context
from trellis.server.rpc.calls import current_caller
from trellis.server.rpc.convert import worker as convert
from trellis.server.rpc.servicers.requests import ServicerContext
from trellis.v1 import worker_pb2 as pb
from trellis.v1.worker_pb2_grpc import WorkerServiceServicer


class WorkerServicer(WorkerServiceServicer):
    """See proto/trellis/v1/worker.proto."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def StartAttempt(self, request: pb.StartAttemptRequest, _: ServicerContext) -> pb.StartAttemptResponse:
        work = await attempts.start_attempt(self._context, current_caller(), convert.process(request))
        return convert.assignment(work)

    async def ReportAttempt(self, request: pb.ReportAttemptRequest, _: ServicerContext) -> pb.ReportAttemptResponse:
        report = convert.attempt_report(request, self._context.now())
        stop = await progress.report_attempt(self._context, current_caller(), report)
        return convert.report_answer(stop, self._context.now(), self._context.pace.seconds)

    async def CompleteAttempt(
        self, request: pb.CompleteAttemptRequest, _: ServicerContext
    ) -> pb.CompleteAttemptResponse:
        done = convert.completion(request)
        return pb.CompleteAttemptResponse(
            adapter=await completion.complete_attempt(self._context, current_caller(), done)
        )

    async def FailAttempt(self, request: pb.FailAttemptRequest, _: ServicerContext) -> pb.FailAttemptResponse:
        await attempts.fail_attempt(
            self._context,
            current_caller(),
            convert.job_error(request.error),
            convert.end_cause(request),
            convert.attempt_usage(request),
        )
        return pb.FailAttemptResponse()
