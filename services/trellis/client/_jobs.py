"""Tuning jobs."""

from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing

from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask

from trellis.client import _watch
from trellis.client._blocking import Blocking, blocking, iterating
from trellis.client._caller import Caller
from trellis.client._convert import enum_number, fill, from_proto
from trellis.client._job_failed import outcome
from trellis.client._method import Method
from trellis.client._names import Names, base_model_name
from trellis.client.types import (
    Adapter,
    Checkpoint,
    DistributedSpec,
    JobEvent,
    JobState,
    LogChunk,
    MetricPoint,
    PreferenceSpec,
    PretrainingSpec,
    TrainingSettings,
    TuningJob,
    TuningJobExplanation,
)
from trellis.errors import InvalidArgument
from trellis.v1 import adapter_pb2, tuning_job_pb2 as pb

_CREATE = Method("TuningJobService/CreateTuningJob", pb.CreateTuningJobRequest, pb.TuningJob)
_LIST = Method("TuningJobService/ListTuningJobs", pb.ListTuningJobsRequest, pb.ListTuningJobsResponse)
_EXPLAIN = Method("TuningJobService/ExplainTuningJob", pb.ExplainTuningJobRequest, pb.TuningJobExplanation)
_PAUSE = Method("TuningJobService/PauseTuningJob", pb.PauseTuningJobRequest, pb.TuningJob)
_RESUME = Method("TuningJobService/ResumeTuningJob", pb.ResumeTuningJobRequest, pb.TuningJob, repeatable=False)
_PREEMPT = Method("TuningJobService/PreemptTuningJob", pb.PreemptTuningJobRequest, pb.TuningJob, repeatable=False)
_CANCEL = Method("TuningJobService/CancelTuningJob", pb.CancelTuningJobRequest, pb.TuningJob)
_DELETE = Method("TuningJobService/DeleteTuningJob", pb.DeleteTuningJobRequest, Empty)
_METRICS = Method(
    "TuningJobService/ListTuningJobMetrics", pb.ListTuningJobMetricsRequest, pb.ListTuningJobMetricsResponse
)
_CHECKPOINTS = Method("TuningJobService/ListCheckpoints", pb.ListCheckpointsRequest, pb.ListCheckpointsResponse)
_CHECKPOINT = Method("TuningJobService/GetCheckpoint", pb.GetCheckpointRequest, pb.Checkpoint)
_UPDATE_CHECKPOINT = Method("TuningJobService/UpdateCheckpoint", pb.UpdateCheckpointRequest, pb.Checkpoint)
_PROMOTE = Method("TuningJobService/PromoteCheckpoint", pb.PromoteCheckpointRequest, adapter_pb2.Adapter)


class AsyncJobs:
    """Jobs that each train one adapter."""

    def __init__(self, caller: Caller, names: Names) -> None:
        self._caller = caller
        self._names = names

    async def create(
        self,
        training_dataset: str,
        *,
        base_model: str = "",
        validation_dataset: str = "",
        supervised: TrainingSettings | None = None,
        preference: PreferenceSpec | None = None,
        pretraining: PretrainingSpec | None = None,
        replay_dataset: str = "",
        initial_adapter: str = "",
        distributed: DistributedSpec | None = None,
        alias: str = "",
        deploy: bool = False,
        priority: int = 0,
        display_name: str = "",
        job_id: str = "",
        tenant: str | None = None,
        request_id: str = "",
    ) -> TuningJob:
        """Submit a job on a dataset's newest version, or on the version named.

        Without a base model the platform's default is tuned; at most one of `supervised`, `preference` and
        `pretraining` says how, supervised tuning by rules if none does. Lines of `replay_dataset` are mixed in against
        forgetting. `initial_adapter`, an adapter, alias or checkpoint, is trained on instead of a new adapter;
        `distributed` runs the job by itself on DeepSpeed. When the job succeeds, `alias` is pointed at its adapter,
        and `deploy` makes it callable. Of a tenant's jobs those of a higher `priority`, -100 to 100, go first; beyond 0, as
        far as its quota allows, also before others' jobs. The answer shows every setting used. Raises NotFound, InvalidArgument with every
        wrong field, FailedPrecondition for data or a base that can't be trained on.
        """
        if sum(method is not None for method in (supervised, preference, pretraining)) > 1:
            message = "A job has one method: give supervised, preference or pretraining."
            raise InvalidArgument.for_field("tuning_job.method", message)
        names = Names(self._names.parent(tenant).removeprefix("tenants/"))
        job = pb.TuningJob(
            display_name=display_name,
            base_model=base_model_name(base_model),
            training_dataset=names.dataset_or_version(training_dataset),
            validation_dataset=names.dataset_or_version(validation_dataset),
            supervised=None
            if preference or pretraining
            else fill(pb.TrainingSettings(), supervised or TrainingSettings(), "tuning_job.supervised"),
            preference=fill(pb.PreferenceSpec(), preference, "tuning_job.preference") if preference else None,
            pretraining=fill(pb.PretrainingSpec(), pretraining, "tuning_job.pretraining") if pretraining else None,
            replay_dataset=names.dataset_or_version(replay_dataset),
            initial_adapter=names.model(initial_adapter) if initial_adapter else "",
            distributed=fill(pb.DistributedSpec(), distributed, "tuning_job.distributed") if distributed else None,
            alias=names.optional("aliases", alias),
            deploy=deploy,
            priority=priority,
        )
        request = pb.CreateTuningJobRequest(
            parent=names.parent(None),
            tuning_job_id=job_id,
            tuning_job=job,
            request_id=request_id or self._caller.new_request_id(),
        )
        return from_proto(TuningJob, await self._caller.unary(_CREATE, request))

    async def get(self, name: str) -> TuningJob:
        """Read a job. Raises NotFound."""
        request = pb.GetTuningJobRequest(name=self._whole(name))
        return from_proto(TuningJob, await self._caller.unary(_watch.GET, request))

    async def list(
        self, *, tenant: str | None = None, states: Collection[JobState] = (), page_size: int = 0
    ) -> AsyncGenerator[TuningJob, None]:
        """A tenant's jobs, newest first, of all states or of these; an admin's tenant `-` is every tenant."""
        descriptor = pb.TuningJob.State.DESCRIPTOR
        request = pb.ListTuningJobsRequest(
            parent=self._names.parent(tenant),
            page_size=page_size,
            states=[pb.TuningJob.State.ValueType(enum_number(state, descriptor)) for state in states],
        )
        async for page in self._caller.pages(_LIST, request):
            for item in page.tuning_jobs:
                yield from_proto(TuningJob, item)

    async def explain(self, name: str) -> TuningJobExplanation:
        """Say why a job waits, what stands before it, when it is likely to start, and what would let it start sooner.

        Of other tenants' jobs only the number is told; of a job that does not wait only its state. Raises NotFound.
        """
        request = pb.ExplainTuningJobRequest(name=self._whole(name))
        return from_proto(TuningJobExplanation, await self._caller.unary(_EXPLAIN, request))

    async def cancel(self, name: str) -> TuningJob:
        """Ask a job to stop; one that has ended stays as it is. Raises NotFound."""
        request = pb.CancelTuningJobRequest(name=self._whole(name))
        return from_proto(TuningJob, await self._caller.unary(_CANCEL, request))

    async def pause(self, name: str) -> TuningJob:
        """Ask a job to save a checkpoint and leave, and to wait until it is resumed; what waits is PAUSED at once.

        Raises NotFound, FailedPrecondition (INVALID_STATE) when it has ended or is being cancelled.
        """
        request = pb.PauseTuningJobRequest(name=self._whole(name))
        return from_proto(TuningJob, await self._caller.unary(_PAUSE, request))

    async def resume(self, name: str, *, workers: int | None = None) -> TuningJob:
        """Queue a paused job again; it goes on from its last checkpoint.

        One that runs by itself does so with so many `workers`, if they are given, whatever their number was.
        Raises NotFound, FailedPrecondition (INVALID_STATE unless it is PAUSED or PAUSING, NEVER_FITS for more workers than
        there can be), InvalidArgument for workers of a job that has none of its own.
        """
        request = pb.ResumeTuningJobRequest(name=self._whole(name), workers=workers)
        return from_proto(TuningJob, await self._caller.unary(_RESUME, request))

    async def preempt(self, name: str, *, reason: str = "") -> TuningJob:
        """Make a job give back its capacity: it saves a checkpoint, leaves, and is queued again; for admins.

        `reason` is a sentence for the job's user. Raises NotFound, FailedPrecondition (INVALID_STATE) unless it is
        STARTING, RUNNING or PREEMPTING.
        """
        request = pb.PreemptTuningJobRequest(name=self._whole(name), reason=reason)
        return from_proto(TuningJob, await self._caller.unary(_PREEMPT, request))

    async def delete(self, name: str, *, etag: str = "") -> None:
        """Delete a job that has ended; its adapter stays. Raises NotFound, FailedPrecondition, Aborted."""
        await self._caller.delete(_DELETE, pb.DeleteTuningJobRequest(name=self._whole(name), etag=etag))

    async def watch(
        self, name: str, *, after_sequence: int = 0, timeout: float | None = None
    ) -> AsyncGenerator[JobEvent, None]:
        """A job's events, old ones first, until it has ended, over lost connections and restarts of the server.

        Each comes once, in order and without a gap; to go on later, give the last `sequence` seen. Raises NotFound,
        Unavailable when the server stays away, DeadlineExceeded after `timeout` seconds.
        """
        async with aclosing(_watch.watch(self._caller, self._whole(name), after_sequence, timeout)) as events:
            async for event in events:
                yield event

    async def wait(self, name: str, *, timeout: float | None = None) -> TuningJob:
        """Wait until a job has succeeded; while it is paused, until it was resumed and has succeeded.

        Raises JobFailed, JobCancelled, DeadlineExceeded after `timeout` seconds.
        """
        async with aclosing(_watch.watch(self._caller, self._whole(name), 0, timeout)) as events:
            async for _ in events:
                pass
        return outcome(await self.get(name))

    async def logs(self, name: str, *, offset: int = 0, follow: bool = False) -> AsyncGenerator[LogChunk, None]:
        """What a job's processes printed; with `follow` until the job has ended. Raises NotFound."""
        async with aclosing(_watch.logs(self._caller, self._whole(name), offset, follow=follow)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def metrics(self, name: str, *, page_size: int = 0) -> AsyncGenerator[MetricPoint, None]:
        """A job's measurements, by step. Raises NotFound."""
        request = pb.ListTuningJobMetricsRequest(parent=self._whole(name), page_size=page_size)
        async for page in self._caller.pages(_METRICS, request):
            for item in page.metrics:
                yield from_proto(MetricPoint, item)

    async def checkpoints(self, name: str, *, page_size: int = 0) -> AsyncGenerator[Checkpoint, None]:
        """A job's committed checkpoints, by step. Raises NotFound."""
        request = pb.ListCheckpointsRequest(parent=self._whole(name), page_size=page_size)
        async for page in self._caller.pages(_CHECKPOINTS, request):
            for item in page.checkpoints:
                yield from_proto(Checkpoint, item)

    async def get_checkpoint(self, name: str) -> Checkpoint:
        """Read a checkpoint, named `JOB/checkpoints/STEP` or in full. Raises NotFound."""
        request = pb.GetCheckpointRequest(name=self._names.checkpoint(name))
        return from_proto(Checkpoint, await self._caller.unary(_CHECKPOINT, request))

    async def pin_checkpoint(self, name: str, *, pinned: bool = True) -> Checkpoint:
        """Keep a checkpoint as long as its job, or with `pinned=False` let it go. Raises NotFound."""
        changed = pb.Checkpoint(name=self._names.checkpoint(name), pinned=pinned)
        request = pb.UpdateCheckpointRequest(checkpoint=changed, update_mask=FieldMask(paths=["pinned"]))
        return from_proto(Checkpoint, await self._caller.unary(_UPDATE_CHECKPOINT, request))

    async def promote_checkpoint(self, name: str, *, display_name: str = "") -> Adapter:
        """Make an adapter of a checkpoint, to be deployed like any other; doing it again gives the same one.

        Raises NotFound, FailedPrecondition (ADAPTER_INVALID; INVALID_STATE for a job that trains all weights).
        """
        request = pb.PromoteCheckpointRequest(name=self._names.checkpoint(name), display_name=display_name)
        return from_proto(Adapter, await self._caller.unary(_PROMOTE, request))

    def _whole(self, name: str) -> str:
        return self._names.of("tuningJobs", name)


class Jobs(Blocking[AsyncJobs]):
    """Jobs that each train one adapter."""

    create = blocking(AsyncJobs.create)
    get = blocking(AsyncJobs.get)
    list = iterating(AsyncJobs.list)
    explain = blocking(AsyncJobs.explain)
    cancel = blocking(AsyncJobs.cancel)
    pause = blocking(AsyncJobs.pause)
    resume = blocking(AsyncJobs.resume)
    preempt = blocking(AsyncJobs.preempt)
    delete = blocking(AsyncJobs.delete)
    watch = iterating(AsyncJobs.watch)
    wait = blocking(AsyncJobs.wait)
    logs = iterating(AsyncJobs.logs)
    metrics = iterating(AsyncJobs.metrics)
    checkpoints = iterating(AsyncJobs.checkpoints)
    get_checkpoint = blocking(AsyncJobs.get_checkpoint)
    pin_checkpoint = blocking(AsyncJobs.pin_checkpoint)
    promote_checkpoint = blocking(AsyncJobs.promote_checkpoint)
