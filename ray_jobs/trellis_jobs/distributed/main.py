"""The entrypoint of a distributed tuning job's process: `python -m trellis_jobs.distributed.main`.

TRELLIS_WORKER_ENDPOINT says where the server is, TRELLIS_ATTEMPT_TICKET which attempt this is, TRELLIS_WORKER_CPUS and
TRELLIS_WORKER_GPUS what each worker reserves. The exit status is 0 when the server knows how the attempt ended, 3 when
the attempt is not ours any more, 1 otherwise.
"""

import importlib.metadata
import logging
import os
import signal
import sys
import traceback
from types import FrameType

import ray

from trellis import tracing
from trellis.artifacts import ArtifactError
from trellis.v1.tuning_job_pb2 import TuningJobEvent
from trellis.v1.worker_pb2 import STOP_REQUEST_CANCEL, STOP_REQUEST_UNSPECIFIED, CompleteAttemptRequest
from trellis_jobs.capture import capture_output
from trellis_jobs.distributed.driver import Driver, Resources
from trellis_jobs.failure import JobStoppedError, ProcessStoppedError, describe
from trellis_jobs.reporter import Reporter
from trellis_jobs.server import RefusedError, Server
from trellis_jobs.spans import AttemptSpans, start_tracing

_log = logging.getLogger(__name__)


def main() -> int:
    """Do the work of one attempt; the process's exit status."""
    signal.signal(signal.SIGTERM, _stop)
    start_tracing("trellis-job")
    code_version = importlib.metadata.version("trellis")
    server = Server(os.environ["TRELLIS_WORKER_ENDPOINT"], os.environ.pop("TRELLIS_ATTEMPT_TICKET"))
    work = server.start(code_version)
    reporter = Reporter(server.report, work.next_report, work.heartbeat_seconds)
    capture_output(reporter.log)
    spans = AttemptSpans(work)
    server.traceparent = spans.traceparent
    driver = Driver(work, reporter, _resources(), code_version, spans)
    try:
        ray.init(configure_logging=False, log_to_driver=True)
        signal.signal(
            signal.SIGTERM, _stop
        )  # again, as Ray puts its own in place, which ends the process without a word
        completion = driver.run()
        if reporter.stop in {STOP_REQUEST_UNSPECIFIED, STOP_REQUEST_CANCEL}:  # what is done need not pause any more
            reporter.check()
        reporter.close()
        _complete(server, completion)
    except JobStoppedError as stopped:
        _log.info("Stopping: %s", stopped)
        spans.fail(stopped)
        reporter.close()
        server.fail(stopped.to_status(), stopped.cause, driver.usage)
    except Exception as error:  # noqa: BLE001  whatever it was, the server must hear of it
        spans.fail(error)
        _fail(server, reporter, driver, error)
    spans.end()
    tracing.stop()
    server.close()
    return 0


def _resources() -> Resources:
    return Resources(
        float(os.environ.get("TRELLIS_WORKER_CPUS", "1")), float(os.environ.get("TRELLIS_WORKER_GPUS", "0"))
    )


def _complete(server: Server, completion: CompleteAttemptRequest) -> None:
    try:
        server.complete(completion)
    except RefusedError as error:
        raise ArtifactError("refused", f"The server refused what was trained: {error}") from None


def _fail(server: Server, reporter: Reporter, driver: Driver, error: Exception) -> None:
    failure = describe(error)
    traceback.print_exception(error)
    reporter.event(failure.message, TuningJobEvent.LEVEL_ERROR)
    reporter.close()
    server.fail(failure.to_status(), failure.cause, driver.usage)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise ProcessStoppedError


if __name__ == "__main__":
    sys.exit(main())
