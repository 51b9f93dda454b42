"""What a job's process is asked to do instead of going on, and until when."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from trellis.server.domain.tuning_job import EndCause, JobState, StopRequest, TuningJob


@dataclass(frozen=True, slots=True)
class Graces:
    """How long a process that was asked to stop may take before it is ended."""

    cancel: timedelta = timedelta(seconds=5)
    leave: timedelta = timedelta(seconds=60)
    """To pause, or to give back its capacity: a checkpoint is to be saved before."""


@dataclass(frozen=True, slots=True)
class Stop:
    """A request to an attempt, and the time at which the attempt is ended whether it has stopped or not."""

    request: StopRequest
    deadline: datetime

    def seconds_left(self, now: datetime) -> float:
        """Seconds until the deadline, never negative."""
        return max(0.0, (self.deadline - now).total_seconds())


_REQUESTS = {
    JobState.CANCELLING: StopRequest.CANCEL,
    JobState.PAUSING: StopRequest.PAUSE,
    JobState.PREEMPTING: StopRequest.PREEMPT,
}
CAUSES = {
    StopRequest.CANCEL: EndCause.CANCELLED,
    StopRequest.PAUSE: EndCause.PAUSED,
    StopRequest.PREEMPT: EndCause.PREEMPTED,
}
"""Why an attempt ends that does as it is asked, or is ended as it does not."""


def stop_of(job: TuningJob, graces: Graces) -> Stop | None:
    """What the job's attempt is asked; None for going on."""
    request = _REQUESTS.get(job.state)
    if request is None:
        return None
    if request is StopRequest.CANCEL:
        return Stop(request, (job.cancel_time or job.update_time) + graces.cancel)
    return Stop(request, (job.stop_time or job.update_time) + graces.leave)
