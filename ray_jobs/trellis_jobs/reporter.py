"""Tells the server what happens, from a thread of its own, and hears whether to stop."""

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from trellis.v1.tuning_job_pb2 import MetricPoint, TuningJob, TuningJobEvent
from trellis.v1.worker_pb2 import (
    STOP_REQUEST_CANCEL,
    STOP_REQUEST_UNSPECIFIED,
    AttemptUsage,
    CommittedCheckpoint,
    ReportAttemptRequest,
    ReportAttemptResponse,
    WorkerEvent,
)
from trellis_jobs.committed import Committed
from trellis_jobs.failure import JobCancelledError, JobStoppedError, Stop

FLUSH_SECONDS: Final = 0.7
_MAX_METRICS: Final = 1000
_MAX_EVENTS: Final = 200
_MAX_LOG_CHARS: Final = 256 << 10
_MAX_WAITING_LOG_CHARS: Final = 4 << 20


class Reporter:
    """Collects what happens and sends it as numbered reports, each until it is acknowledged: about once a second, or as much
    less often as the server asks for.

    All methods but `close` return at once. `check` raises JobStoppedError once the server wants the job to stop.
    """

    def __init__(
        self,
        send: Callable[[ReportAttemptRequest], ReportAttemptResponse],
        next_report: int,
        heartbeat_seconds: float,
        pause: float = FLUSH_SECONDS,
    ) -> None:
        self._send = send
        self._next_report = next_report
        self._heartbeat = max(pause, heartbeat_seconds / 3) if heartbeat_seconds > 0 else 5.0
        self._least_pause = self._pause = pause
        self._changed = threading.Condition()
        self._waiting = ReportAttemptRequest()
        self._log: list[str] = []
        self._log_chars = 0
        self._usage: AttemptUsage | None = None
        self._closing = threading.Event()
        self._error: Exception | None = None
        self.acknowledged_step = -1
        """The step of the newest checkpoint that the server knows of."""
        self.stop: Stop = STOP_REQUEST_UNSPECIFIED
        """What the server wants the attempt to do instead of going on."""
        self.stop_due = math.inf
        """When the attempt is ended whether it has stopped or not, in time.monotonic() seconds."""
        self._thread = threading.Thread(target=self._run, name="reporter", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise JobStoppedError (JobCancelledError for a cancelled job) if it is to stop, or what made reporting
        impossible."""
        if self._error is not None:
            raise self._error
        if self.stop == STOP_REQUEST_CANCEL:
            raise JobCancelledError
        if self.stop != STOP_REQUEST_UNSPECIFIED:
            raise JobStoppedError(self.stop)

    def progress(self, progress: TuningJob.Progress) -> None:
        """How far the job has come; the latest one is sent."""
        with self._changed:
            self._waiting.progress.CopyFrom(progress)
            self._changed.notify()

    def usage(self, usage: AttemptUsage) -> None:
        """What the attempt has used so far; it goes along with the next report and makes none by itself."""
        with self._changed:
            self._usage = usage

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """What was measured at a step."""
        with self._changed:
            self._waiting.metrics.append(MetricPoint(step=step, values=values, time=_now()))
            self._changed.notify()

    def event(self, message: str, level: "TuningJobEvent.Level.ValueType" = TuningJobEvent.LEVEL_INFO) -> None:
        """A sentence on what happened."""
        with self._changed:
            self._waiting.events.append(WorkerEvent(level=level, message=message, time=_now()))
            self._changed.notify()

    def checkpoint(self, committed: Committed) -> None:
        """A checkpoint whose commit marker is written."""
        with self._changed:
            self._waiting.checkpoints.append(
                CommittedCheckpoint(
                    step=committed.step,
                    key=committed.key,
                    size_bytes=committed.size_bytes,
                    valid_loss=committed.valid_loss,
                )
            )
            self._changed.notify()

    def log(self, lines: str) -> None:
        """Whole lines that were printed; the oldest are dropped when too many wait."""
        with self._changed:
            self._log.append(lines)
            self._log_chars += len(lines)
            while self._log_chars > _MAX_WAITING_LOG_CHARS and len(self._log) > 1:
                self._log_chars -= len(self._log.pop(0))
            self._changed.notify()

    def close(self) -> None:
        """Send all that waits, and return when it is acknowledged or can't be."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while (request := self._next()) is not None:
                response = self._send(request)
                self._next_report += 1
                self.acknowledged_step = max([self.acknowledged_step, *(c.step for c in request.checkpoints)])
                self._heed(response)
                self._pause = max(self._least_pause, response.pause_seconds)
                self._closing.wait(self._pause)
        except Exception as error:  # noqa: BLE001  handed to the training thread, which ends the job with it
            self._error = error

    def _heed(self, response: ReportAttemptResponse) -> None:
        if response.stop == STOP_REQUEST_UNSPECIFIED or self.stop == STOP_REQUEST_CANCEL:
            return
        if response.stop != self.stop:
            self.stop_due = time.monotonic() + response.stop_seconds
        self.stop = response.stop

    def _next(self) -> ReportAttemptRequest | None:
        """The next report: as soon as something waits, or when a heartbeat is due; None when closing and all is sent."""
        due = time.monotonic() + self._heartbeat
        with self._changed:
            while not self._anything() and not self._closing.is_set() and (left := due - time.monotonic()) > 0:
                self._changed.wait(left)
            if self._closing.is_set() and not self._anything():
                return None
            return self._take()

    def _anything(self) -> bool:
        return bool(self._waiting.ByteSize() or self._log)

    def _take(self) -> ReportAttemptRequest:
        """What waits, as much of it as fits into one report. In order: a checkpoint never comes before its metrics."""
        request = ReportAttemptRequest(report=self._next_report, log_text=self._take_log(), usage=self._usage)
        waiting = self._waiting
        if waiting.HasField("progress"):
            request.progress.CopyFrom(waiting.progress)
            waiting.ClearField("progress")
        _move(waiting.metrics, request.metrics, _MAX_METRICS)
        _move(waiting.events, request.events, _MAX_EVENTS)
        if not waiting.metrics:
            _move(waiting.checkpoints, request.checkpoints, _MAX_EVENTS)
        return request

    def _take_log(self) -> str:
        taken: list[str] = []
        size = 0
        while self._log and (not taken or size + len(self._log[0]) <= _MAX_LOG_CHARS):
            taken.append(self._log.pop(0))
            size += len(taken[-1])
        self._log_chars -= size
        return "".join(taken)


def _move(source: Any, target: Any, limit: int) -> None:
    target.extend(source[:limit])
    del source[:limit]


def _now() -> Timestamp:
    stamp = Timestamp()
    stamp.GetCurrentTime()
    return stamp
