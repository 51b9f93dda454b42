"""Reports: numbered, in order, none lost."""

import math
import threading
import time
from collections.abc import Callable

import pytest

from trellis.v1.tuning_job_pb2 import TuningJob
from trellis.v1.worker_pb2 import (
    END_CAUSE_CANCELLED,
    END_CAUSE_PAUSED,
    END_CAUSE_PREEMPTED,
    STOP_REQUEST_CANCEL,
    STOP_REQUEST_PAUSE,
    STOP_REQUEST_PREEMPT,
    AttemptUsage,
    ReportAttemptRequest,
    ReportAttemptResponse,
)
from trellis_jobs.capture import Tee
from trellis_jobs.committed import Committed
from trellis_jobs.failure import Cause, JobCancelledError, JobStoppedError, Stop
from trellis_jobs.reporter import Reporter
from trellis_jobs.server import RefusedError


class Inbox:
    """A server that takes reports when it is open."""

    def __init__(self) -> None:
        self.reports: list[ReportAttemptRequest] = []
        self.open = threading.Event()
        self.open.set()
        self.answer: Callable[[], ReportAttemptResponse] = ReportAttemptResponse

    def __call__(self, request: ReportAttemptRequest) -> ReportAttemptResponse:
        assert self.open.wait(10)
        response = self.answer()
        self.reports.append(request)
        return response


def reporter_to(inbox: Inbox, *, next_report: int = 1, heartbeat: float = 60.0) -> Reporter:
    return Reporter(inbox, next_report, heartbeat, pause=0.001)


def test_everything_arrives_in_numbered_reports() -> None:
    inbox = Inbox()
    reporter = reporter_to(inbox, next_report=7)
    for step in range(1, 2501):
        reporter.metrics(step, {"train_loss": float(step)})
    reporter.event("Something.")
    reporter.checkpoint(Committed(2500, "job/step-00002500-attempt-1", 10))
    reporter.progress(TuningJob.Progress(step=2500))
    reporter.log("a line\n")
    reporter.close()
    assert [found.report for found in inbox.reports] == list(range(7, 7 + len(inbox.reports)))
    assert [point.step for found in inbox.reports for point in found.metrics] == list(range(1, 2501))
    assert all(found.ByteSize() < 1 << 20 for found in inbox.reports)
    assert "".join(found.log_text for found in inbox.reports) == "a line\n"
    assert reporter.acknowledged_step == 2500


def test_a_checkpoint_never_comes_before_its_metrics() -> None:
    inbox = Inbox()
    inbox.open.clear()
    reporter = reporter_to(inbox)
    for step in range(1, 3001):
        reporter.metrics(step, {"train_loss": 0.0})
    reporter.checkpoint(Committed(3000, "job/c", 1))
    inbox.open.set()
    reporter.close()
    seen = [point.step for found in inbox.reports for point in found.metrics]
    holder = next(number for number, found in enumerate(inbox.reports) if found.checkpoints)
    assert seen[-1] == 3000
    assert not any(found.metrics for found in inbox.reports[holder + 1 :])


@pytest.mark.parametrize(
    ("stop", "cause"),
    [
        (STOP_REQUEST_CANCEL, END_CAUSE_CANCELLED),
        (STOP_REQUEST_PAUSE, END_CAUSE_PAUSED),
        (STOP_REQUEST_PREEMPT, END_CAUSE_PREEMPTED),
    ],
)
def test_a_wish_to_stop_is_heard(stop: Stop, cause: Cause) -> None:
    inbox = Inbox()
    inbox.answer = lambda: ReportAttemptResponse(stop=stop, stop_seconds=60)
    reporter = reporter_to(inbox)
    reporter.check()
    assert reporter.stop_due == math.inf
    before = time.monotonic()
    reporter.event("Hello.")
    reporter.close()
    assert before + 60 <= reporter.stop_due <= time.monotonic() + 60
    with pytest.raises(JobStoppedError) as raised:
        reporter.check()
    assert raised.value.cause == cause
    assert isinstance(raised.value, JobCancelledError) == (stop == STOP_REQUEST_CANCEL)


def test_a_pause_can_become_a_cancellation_but_not_the_other_way_round() -> None:
    inbox = Inbox()
    stops = iter([STOP_REQUEST_PAUSE, STOP_REQUEST_CANCEL, STOP_REQUEST_PAUSE])
    heard = threading.Semaphore(0)

    def answer() -> ReportAttemptResponse:
        heard.release()
        return ReportAttemptResponse(stop=next(stops), stop_seconds=60)

    inbox.answer = answer
    reporter = reporter_to(inbox)
    for number in range(3):
        reporter.event(f"Number {number}.")
        assert heard.acquire(timeout=10)
    reporter.close()
    with pytest.raises(JobCancelledError):
        reporter.check()


def test_usage_goes_along_with_reports() -> None:
    inbox = Inbox()
    reporter = reporter_to(inbox)
    reporter.usage(AttemptUsage(trained_tokens=7, trainer_seconds=0.5))
    reporter.event("Hello.")
    reporter.close()
    assert inbox.reports[-1].usage == AttemptUsage(trained_tokens=7, trainer_seconds=0.5)


def test_a_heartbeat_is_sent_when_nothing_happens() -> None:
    inbox = Inbox()
    beat = threading.Event()

    def answer() -> ReportAttemptResponse:
        beat.set()
        return ReportAttemptResponse()

    inbox.answer = answer
    reporter = reporter_to(inbox, heartbeat=0.03)
    assert beat.wait(10)
    reporter.close()


def test_a_report_that_is_refused_ends_the_job() -> None:
    def refuse() -> ReportAttemptResponse:
        raise RefusedError("A report is missing.")

    inbox = Inbox()
    inbox.answer = refuse
    reporter = reporter_to(inbox)
    reporter.event("Hello.")
    reporter.close()
    with pytest.raises(RefusedError):
        reporter.check()


def test_too_much_log_loses_its_beginning() -> None:
    inbox = Inbox()
    inbox.open.clear()
    reporter = reporter_to(inbox)
    for number in range(8):
        reporter.log(f"{number}" + "x" * (1 << 20) + "\n")
    inbox.open.set()
    reporter.close()
    text = "".join(found.log_text for found in inbox.reports)
    assert text.splitlines()[-1].startswith("7")
    assert len(text) < 6 << 20


class Sink:
    """A stream that remembers."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        """Nothing to do."""


def test_printed_lines_are_handed_on_whole() -> None:
    stream, lines = Sink(), []
    tee = Tee(stream, lines.append)  # type: ignore[arg-type]
    print("one", "two", file=tee)
    tee.write("half")
    assert lines == ["one two\n"]
    tee.write(" a line\nprogress 1%\rprogress 99%\rprogress 100%\nrest")
    assert "".join(lines) == "one two\nhalf a line\nprogress 100%\n"
    assert stream.text.endswith("rest")


def test_a_busy_server_is_told_less_often_but_all() -> None:
    inbox = Inbox()
    inbox.answer = lambda: ReportAttemptResponse(pause_seconds=60)
    reporter = reporter_to(inbox)
    reporter.metrics(1, {"train_loss": 1.0})
    while not inbox.reports:
        time.sleep(0.001)
    for step in range(2, 50):
        reporter.metrics(step, {"train_loss": 1.0})
        time.sleep(0.001)
    assert len(inbox.reports) == 1, "it waits as long as it was asked to"
    reporter.close()
    assert [[point.step for point in found.metrics] for found in inbox.reports] == [[1], list(range(2, 50))]


def test_it_reports_often_again_when_it_may() -> None:
    inbox = Inbox()
    inbox.answer = lambda: ReportAttemptResponse(pause_seconds=0.05 if len(inbox.reports) < 2 else 0)
    reporter = reporter_to(inbox)
    for step in range(1, 6):
        reporter.metrics(step, {"train_loss": 1.0})
        while len(inbox.reports) < step:
            time.sleep(0.001)
    reporter.close()
    assert len(inbox.reports) == 5
