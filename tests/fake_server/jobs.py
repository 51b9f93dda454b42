"""Jobs in memory; their events are scripted."""

import threading
from collections.abc import Iterator
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.rpc.code_pb2 import ABORTED

from tests.fake_server.accounts import found
from tests.fake_server.faults import abort
from tests.fake_server.pages import page_of
from trellis.errors import Aborted, FailedPrecondition, NotFound, Unavailable
from trellis.server.rpc.statuses import status_of
from trellis.v1 import tuning_job_pb2 as pb
from trellis.v1.adapter_pb2 import Adapter
from trellis.v1.tuning_job_pb2_grpc import TuningJobServiceServicer

S = pb.TuningJob


def script(final: "pb.TuningJob.State.ValueType" = S.STATE_SUCCEEDED, steps: int = 4) -> list[pb.TuningJobEvent]:
    """The events of a job that trains for so many steps."""
    events = [pb.TuningJobEvent(message="The job waits.", state=S.STATE_QUEUED)]
    events.append(pb.TuningJobEvent(message="It runs.", state=S.STATE_RUNNING))
    for step in range(1, steps + 1):
        progress = S.Progress(step=step, total_steps=steps, phase="training", loss=1 / step)
        progress.eta.FromSeconds(10 * (steps - step))
        events.append(pb.TuningJobEvent(message="", progress=progress))
        events.append(pb.TuningJobEvent(metrics=pb.MetricPoint(step=step, values={"train_loss": 1 / step})))
    events.append(pb.TuningJobEvent(message="It has ended.", state=final, level=pb.TuningJobEvent.LEVEL_INFO))
    for number, event in enumerate(events, 1):
        event.sequence = number
        event.time.FromSeconds(1_700_000_000 + number)
    return events


class Jobs(TuningJobServiceServicer):
    def __init__(self) -> None:
        self.jobs: dict[str, pb.TuningJob] = {}
        self.pinned: set[str] = set()
        self.reasons: list[str] = []
        """Of preemptions."""
        self.created: dict[str, str] = {}
        self.events: dict[str, list[pb.TuningJobEvent]] = {}
        self.cut_watches: list[int] = []
        """Each watch is cut after so many events; then whole ones."""
        self.ended_early: list[int] = []
        """As `cut_watches`, but the stream ends as if nothing were wrong."""
        self.skip: list[int] = []
        """Sequences that the next watch leaves out."""
        self.after: list[int] = []
        self.silent = False
        """Whether watches bring nothing and do not end."""
        self.log = ["line 1\n", "line 2\n", "line 3\n"]
        self.cut_logs: list[int] = []

    def finish(self, name: str, final: "pb.TuningJob.State.ValueType" = S.STATE_SUCCEEDED, steps: int = 4) -> None:
        """Let a job have ended so."""
        job = self.jobs[name]
        job.state = final
        self.events[name] = script(final, steps)
        if final == S.STATE_FAILED:
            error = Aborted("ATTEMPTS_EXHAUSTED", "It failed three times.", metadata={"attempts": "3"})
            job.error.CopyFrom(status_of(error, ""))
            assert job.error.code == ABORTED
        if final == S.STATE_SUCCEEDED:
            job.adapter = f"{name.partition('/tuningJobs/')[0]}/adapters/{'a' * 24}"
            job.base_evaluation.CopyFrom(S.Evaluation(loss=2.0, token_accuracy=0.5, exact_match=0.1, line_count=9))
            job.tuned_evaluation.CopyFrom(S.Evaluation(loss=1.0, token_accuracy=0.9, exact_match=0.8, line_count=9))

    def CreateTuningJob(self, request: Any, context: Any) -> Any:
        if request.request_id in self.created:
            return self.jobs[self.created[request.request_id]]
        job = pb.TuningJob()
        job.CopyFrom(request.tuning_job)
        job.name = f"{request.parent}/tuningJobs/{request.tuning_job_id or f'j{len(self.jobs)}'}"
        job.state = S.STATE_QUEUED
        job.queue_reason.CopyFrom(S.QueueReason(code=S.QueueReason.CODE_CAPACITY, message="No room.", position=2))
        job.estimate.CopyFrom(
            S.Estimate(accelerators=0.25, trained_tokens=1200, rule="1,200 tokens.", accelerator_seconds=30)
        )
        job.estimate.duration.FromSeconds(120)
        self.jobs[job.name], self.created[request.request_id] = job, job.name
        return job

    def GetTuningJob(self, request: Any, context: Any) -> Any:
        return found(self.jobs, request.name, context)

    def ListTuningJobs(self, request: Any, context: Any) -> Any:
        everyone = request.parent == "tenants/-"
        mine = [job for job in self.jobs.values() if everyone or job.name.startswith(request.parent + "/")]
        jobs, token = page_of([job for job in mine if not request.states or job.state in request.states], request)
        return pb.ListTuningJobsResponse(tuning_jobs=jobs, next_page_token=token)

    def ExplainTuningJob(self, request: Any, context: Any) -> Any:
        """As the real one: of a job that is not queued, its state and what it waits for; of others', only numbers."""
        job = found(self.jobs, request.name, context)
        told = pb.TuningJobExplanation(tuning_job=job.name, state=job.state)
        told.time.FromSeconds(1_700_000_000)
        if job.state != S.STATE_QUEUED:
            if job.state == S.STATE_STARTING and job.HasField("queue_reason"):
                told.reasons.append(job.queue_reason)
            told.warnings.extend(job.warnings)
            return told
        told.reasons.append(job.queue_reason)
        told.position, told.other_jobs_before = job.queue_reason.position, job.queue_reason.position
        for minutes, time in ((10, told.earliest_start_time), (30, told.predicted_start_time)):
            time.FromSeconds(1_700_000_000 + 60 * minutes)
        told.latest_start_time.FromSeconds(1_700_000_000 + 60 * 150)
        change = told.alternatives.add(
            message="With 2 workers instead of 4 it would start now.", field="distributed.workers", value="2"
        )
        change.start_time.FromSeconds(1_700_000_000)
        return told

    def CancelTuningJob(self, request: Any, context: Any) -> Any:
        job = found(self.jobs, request.name, context)
        job.state = S.STATE_CANCELLING
        return job

    def PauseTuningJob(self, request: Any, context: Any) -> Any:
        job = found(self.jobs, request.name, context)
        self._require(job, {S.STATE_QUEUED, S.STATE_RUNNING, S.STATE_PAUSED}, context)
        job.state = S.STATE_PAUSING if job.state == S.STATE_RUNNING else S.STATE_PAUSED
        return job

    def ResumeTuningJob(self, request: Any, context: Any) -> Any:
        job = found(self.jobs, request.name, context)
        self._require(job, {S.STATE_PAUSED, S.STATE_PAUSING}, context)
        job.state = S.STATE_QUEUED if job.state == S.STATE_PAUSED else S.STATE_RUNNING
        if request.HasField("workers"):
            job.distributed.workers = request.workers
        return job

    def PreemptTuningJob(self, request: Any, context: Any) -> Any:
        job = found(self.jobs, request.name, context)
        self._require(job, {S.STATE_STARTING, S.STATE_RUNNING}, context)
        job.state = S.STATE_PREEMPTING
        self.reasons.append(request.reason)
        return job

    @staticmethod
    def _require(job: Any, states: set[int], context: Any) -> None:
        if job.state not in states:
            state = S.State.Name(job.state).removeprefix("STATE_")
            abort(context, FailedPrecondition("INVALID_STATE", f"{job.name} is {state}.", metadata={"state": state}))

    def DeleteTuningJob(self, request: Any, context: Any) -> Any:
        del self.jobs[found(self.jobs, request.name, context).name]
        return Empty()

    def WatchTuningJob(self, request: Any, context: Any) -> Iterator[Any]:
        found(self.jobs, request.name, context)
        self.after.append(request.after_sequence)
        if self.silent:
            _until_gone(context)
        cut = self.cut_watches.pop(0) if self.cut_watches else None
        early = self.ended_early.pop(0) if self.ended_early else None
        skipped, self.skip = self.skip, []
        rest = [e for e in self.events[request.name] if e.sequence > request.after_sequence]
        for number, event in enumerate(rest):
            if number == cut:
                abort(context, Unavailable("SERVER_STOPPING", "The server is stopping."))
            if number == early:
                return
            if event.sequence not in skipped:
                yield event

    def ReadTuningJobLogs(self, request: Any, context: Any) -> Iterator[Any]:
        cut = self.cut_logs.pop(0) if self.cut_logs else None
        for number, text in enumerate(self.log[request.offset :]):
            if number == cut:
                abort(context, Unavailable("SERVER_STOPPING", "The server is stopping."))
            yield pb.ReadTuningJobLogsResponse(text=text, attempt=1, next_offset=request.offset + number + 1)

    def ListTuningJobMetrics(self, request: Any, context: Any) -> Any:
        points = [e.metrics for e in self.events.get(request.parent, []) if e.HasField("metrics")]
        metrics, token = page_of(points, request)
        return pb.ListTuningJobMetricsResponse(metrics=metrics, next_page_token=token)

    def ListCheckpoints(self, request: Any, context: Any) -> Any:
        return pb.ListCheckpointsResponse(checkpoints=[self._checkpoint(f"{request.parent}/checkpoints/50", context)])

    def GetCheckpoint(self, request: Any, context: Any) -> Any:
        return self._checkpoint(request.name, context)

    def UpdateCheckpoint(self, request: Any, context: Any) -> Any:
        assert list(request.update_mask.paths) == ["pinned"]
        (self.pinned.add if request.checkpoint.pinned else self.pinned.discard)(request.checkpoint.name)
        return self._checkpoint(request.checkpoint.name, context)

    def PromoteCheckpoint(self, request: Any, context: Any) -> Any:
        self._checkpoint(request.name, context)
        tenant, _, rest = request.name.partition("/tuningJobs/")
        name, job = f"{tenant}/adapters/{'b' * 24}", f"{tenant}/tuningJobs/{rest.partition('/')[0]}"
        return Adapter(name=name, display_name=request.display_name, tuning_job=job)

    def _checkpoint(self, name: str, context: Any) -> Any:
        """Each job has one, of step 50."""
        job, _, step = name.partition("/checkpoints/")
        found(self.jobs, job, context)
        if step != "50":
            abort(context, NotFound.for_resource(name))
        pinned = name in self.pinned
        return pb.Checkpoint(name=name, step=50, attempt=1, size_bytes=1000, best=True, valid_loss=0.5, pinned=pinned)


def _until_gone(context: Any) -> None:
    gone = threading.Event()
    if context.add_callback(gone.set):
        gone.wait(30)
