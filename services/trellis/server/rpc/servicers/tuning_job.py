"""TuningJobService."""

from collections.abc import AsyncIterator

from google.protobuf.empty_pb2 import Empty

from trellis.server.app import checkpoints, explanations, promotion, stopping, submission, tuning_jobs, watch
from trellis.server.app.context import Context
from trellis.server.rpc.calls import current_caller
from trellis.server.rpc.convert.adapter import adapter
from trellis.server.rpc.convert.explanation import explanation
from trellis.server.rpc.convert.tuning_job import (
    checkpoint,
    event,
    metric_point,
    new_tuning_job,
    states,
    tuning_job,
)
from trellis.server.rpc.servicers.requests import ServicerContext, page_query, request_key
from trellis.v1 import tuning_job_pb2 as pb
from trellis.v1.adapter_pb2 import Adapter
from trellis.v1.tuning_job_pb2_grpc import TuningJobServiceServicer


class TuningJobServicer(TuningJobServiceServicer):
    """See proto/trellis/v1/tuning_job.proto."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def CreateTuningJob(self, request: pb.CreateTuningJobRequest, _: ServicerContext) -> pb.TuningJob:
        key = request_key(request, request.request_id)
        new = new_tuning_job(request)
        return tuning_job(await submission.create_tuning_job(self._context, current_caller(), new, key))

    async def GetTuningJob(self, request: pb.GetTuningJobRequest, _: ServicerContext) -> pb.TuningJob:
        return tuning_job(await tuning_jobs.get_tuning_job(self._context, request.name))

    async def ListTuningJobs(self, request: pb.ListTuningJobsRequest, _: ServicerContext) -> pb.ListTuningJobsResponse:
        page = await tuning_jobs.list_tuning_jobs(self._context, request.parent, states(request), page_query(request))
        return pb.ListTuningJobsResponse(tuning_jobs=map(tuning_job, page.items), next_page_token=page.next_page_token)

    async def ExplainTuningJob(
        self, request: pb.ExplainTuningJobRequest, _: ServicerContext
    ) -> pb.TuningJobExplanation:
        return explanation(await explanations.explain_tuning_job(self._context, request.name))

    async def CancelTuningJob(self, request: pb.CancelTuningJobRequest, _: ServicerContext) -> pb.TuningJob:
        return tuning_job(await tuning_jobs.cancel_tuning_job(self._context, request.name))

    async def PauseTuningJob(self, request: pb.PauseTuningJobRequest, _: ServicerContext) -> pb.TuningJob:
        return tuning_job(await stopping.pause_tuning_job(self._context, request.name))

    async def ResumeTuningJob(self, request: pb.ResumeTuningJobRequest, _: ServicerContext) -> pb.TuningJob:
        workers = request.workers if request.HasField("workers") else None
        return tuning_job(await stopping.resume_tuning_job(self._context, request.name, workers))

    async def PreemptTuningJob(self, request: pb.PreemptTuningJobRequest, _: ServicerContext) -> pb.TuningJob:
        return tuning_job(await stopping.preempt_tuning_job(self._context, request.name, request.reason))

    async def DeleteTuningJob(self, request: pb.DeleteTuningJobRequest, _: ServicerContext) -> Empty:
        await tuning_jobs.delete_tuning_job(self._context, request.name, request.etag)
        return Empty()

    async def WatchTuningJob(
        self, request: pb.WatchTuningJobRequest, _: ServicerContext
    ) -> AsyncIterator[pb.TuningJobEvent]:
        async for job, happened in watch.watch_tuning_job(self._context, request.name, request.after_sequence):
            yield event(job, happened)

    async def ReadTuningJobLogs(
        self, request: pb.ReadTuningJobLogsRequest, _: ServicerContext
    ) -> AsyncIterator[pb.ReadTuningJobLogsResponse]:
        async for piece in watch.read_log(self._context, request.name, request.offset, follow=request.follow):
            yield pb.ReadTuningJobLogsResponse(text=piece.text, attempt=piece.attempt, next_offset=piece.next_offset)

    async def ListTuningJobMetrics(
        self, request: pb.ListTuningJobMetricsRequest, _: ServicerContext
    ) -> pb.ListTuningJobMetricsResponse:
        page = await tuning_jobs.list_metrics(self._context, request.parent, page_query(request))
        return pb.ListTuningJobMetricsResponse(
            metrics=map(metric_point, page.items), next_page_token=page.next_page_token
        )

    async def ListCheckpoints(
        self, request: pb.ListCheckpointsRequest, _: ServicerContext
    ) -> pb.ListCheckpointsResponse:
        page = await checkpoints.list_checkpoints(self._context, request.parent, page_query(request))
        found = [checkpoint(request.parent, one.checkpoint, best=one.best) for one in page.items]
        return pb.ListCheckpointsResponse(checkpoints=found, next_page_token=page.next_page_token)

    async def GetCheckpoint(self, request: pb.GetCheckpointRequest, _: ServicerContext) -> pb.Checkpoint:
        found = await checkpoints.get_checkpoint(self._context, request.name)
        return checkpoint(_job_of(request.name), found.checkpoint, best=found.best)

    async def UpdateCheckpoint(self, request: pb.UpdateCheckpointRequest, _: ServicerContext) -> pb.Checkpoint:
        sent, mask = request.checkpoint, tuple(request.update_mask.paths)
        found = await checkpoints.update_checkpoint(self._context, sent.name, mask, pinned=sent.pinned)
        return checkpoint(_job_of(sent.name), found.checkpoint, best=found.best)

    async def PromoteCheckpoint(self, request: pb.PromoteCheckpointRequest, _: ServicerContext) -> Adapter:
        return adapter(await promotion.promote_checkpoint(self._context, request.name, request.display_name))


def _job_of(checkpoint_name: str) -> str:
    return checkpoint_name.partition("/checkpoints/")[0]
