"""Watching a job over lost connections and restarts of the server, without a gap."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from trellis.client._caller import Caller
from trellis.client._convert import from_proto
from trellis.client._method import Method
from trellis.client._patience import Patience
from trellis.client.types import JobEvent, LogChunk, TuningJob
from trellis.errors import TrellisError, Unavailable
from trellis.v1 import tuning_job_pb2 as pb

GET = Method("TuningJobService/GetTuningJob", pb.GetTuningJobRequest, pb.TuningJob)
_WATCH = Method("TuningJobService/WatchTuningJob", pb.WatchTuningJobRequest, pb.TuningJobEvent)
_LOGS = Method("TuningJobService/ReadTuningJobLogs", pb.ReadTuningJobLogsRequest, pb.ReadTuningJobLogsResponse)


async def watch(
    caller: Caller, name: str, after_sequence: int, timeout: float | None
) -> AsyncGenerator[JobEvent, None]:
    """A job's events after `after_sequence`, each once and in order, until the job has ended."""
    deadline = caller.deadline(timeout)
    patience, last = Patience(caller, deadline), after_sequence
    while True:
        try:
            async with aclosing(_events(caller, name, last, deadline)) as events:
                async for event in events:
                    last = event.sequence
                    patience.renew()
                    yield event
            if await _ended(caller, name):
                return
            raise Unavailable("UNAVAILABLE", f"The events of {name} stopped before it ended.")
        except TrellisError as error:
            await patience.after(error)


async def _events(caller: Caller, name: str, last: int, deadline: float | None) -> AsyncGenerator[JobEvent, None]:
    left = caller.remaining(deadline, f"{name} did not end in time.")
    request = pb.WatchTuningJobRequest(name=name, after_sequence=last)
    async with aclosing(caller.stream(_WATCH, request, left)) as answers:
        async for answer in answers:
            event = from_proto(JobEvent, answer)
            if event.sequence <= last:
                continue  # seen before the connection was lost
            if event.sequence != last + 1:
                message = f"Event {event.sequence} of {name} came after {last}; reading from there again."
                raise Unavailable("EVENT_GAP", message)
            last = event.sequence
            yield event


async def _ended(caller: Caller, name: str) -> bool:
    job = from_proto(TuningJob, await caller.unary(GET, pb.GetTuningJobRequest(name=name)))
    return job.state.ended


async def logs(caller: Caller, name: str, offset: int, *, follow: bool) -> AsyncGenerator[LogChunk, None]:
    """What a job's processes printed, from `offset` on."""
    patience = Patience(caller)
    while True:
        request = pb.ReadTuningJobLogsRequest(name=name, offset=offset, follow=follow)
        try:
            async with aclosing(caller.stream(_LOGS, request)) as answers:
                async for answer in answers:
                    chunk = from_proto(LogChunk, answer)
                    offset = chunk.next_offset
                    patience.renew()
                    yield chunk
            return
        except TrellisError as error:
            await patience.after(error)
