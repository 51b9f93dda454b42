"""How far the job has come, and how long it will still take."""

import logging
import time
from collections.abc import Callable

from google.protobuf.duration_pb2 import Duration

from trellis.v1.tuning_job_pb2 import TuningJob
from trellis_jobs.spans import AttemptSpans

_log = logging.getLogger(__name__)


class Progress:
    """Sends the job's progress as it changes; the ETA is by the pace of this process so far."""

    def __init__(
        self,
        send: Callable[[TuningJob.Progress], None],
        clock: Callable[[], float] = time.monotonic,
        log: Callable[[str], None] = _log.info,
        spans: AttemptSpans | None = None,
    ) -> None:
        self._spans = spans
        self._send = send
        self._clock = clock
        self._log = log
        self._now = TuningJob.Progress()
        self._began = clock()
        self._first_step = 0
        self._ending_seconds = 0.0

    def phase(self, name: str) -> None:
        """The job does something else from now on."""
        self._now.phase = name
        self._now.ClearField("eta")
        if self._spans is not None:
            self._spans.phase(name)
        self._log(f"Now {name}.")
        self._send(self._now)

    def evaluation_took(self, seconds: float) -> None:
        """How long the base's evaluation took: the adapter's will take about as long, when training is over."""
        self._ending_seconds = seconds

    def training_from(self, step: int, total_steps: int, trained_tokens: int) -> None:
        """Training begins, or goes on from a checkpoint."""
        self._began, self._first_step = self._clock(), step
        self._now.step, self._now.total_steps, self._now.trained_tokens = step, total_steps, trained_tokens
        self.phase("training")

    def stepped(self, step: int, loss: float, trained_tokens: int) -> None:
        """A step is done."""
        self._now.step, self._now.loss, self._now.trained_tokens = step, loss, trained_tokens
        pace = (self._clock() - self._began) / (step - self._first_step)
        left = pace * (self._now.total_steps - step) + self._ending_seconds
        self._now.eta.CopyFrom(Duration(seconds=int(left), nanos=int(left % 1 * 1e9)))
        if self._spans is not None:
            self._spans.stepped(step, self._now.total_steps, loss, trained_tokens)
        self._send(self._now)
