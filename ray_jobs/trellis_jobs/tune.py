"""The entrypoint of a tuning job's process: `python -m trellis_jobs.tune`.

TRELLIS_WORKER_ENDPOINT says where the server is, TRELLIS_ATTEMPT_TOKEN which attempt this is. The exit status is 0 when
the server knows how the attempt ended, 3 when the attempt is not ours any more, 1 otherwise.
"""

import importlib.metadata
import logging
import os
import signal
import sys
import traceback
from types import FrameType

from trellis.artifacts import ArtifactError
from trellis.v1.tuning_job_pb2 import TuningJobEvent
from trellis.v1.worker_pb2 import CompleteAttemptRequest
from trellis_jobs.capture import capture_output
from trellis_jobs.device import limit_threads
from trellis_jobs.failure import Failure, JobStoppedError, ProcessStoppedError, describe
from trellis_jobs.job import run
from trellis_jobs.reporter import Reporter
from trellis_jobs.server import RefusedError, Server

_log = logging.getLogger(__name__)


def main() -> int:
    """Do the work of one attempt; the process's exit status."""
    signal.signal(signal.SIGTERM, _stop)
    limit_threads()
    code_version = importlib.metadata.version("trellis")
    server = Server(os.environ["TRELLIS_WORKER_ENDPOINT"], os.environ.pop("TRELLIS_ATTEMPT_TOKEN"))
    work = server.start(code_version)
    reporter = Reporter(server.report, work.next_report, work.heartbeat_seconds)
    capture_output(reporter.log)
    try:
        completion = run(work, reporter, code_version)
        reporter.check()
        reporter.close()
        _complete(server, completion)
    except JobStoppedError as stopped:
        _log.info("Stopping: %s", stopped)
        reporter.close()
        server.fail(stopped.to_status(), stopped.cause)
    except Exception as error:  # noqa: BLE001  whatever it was, the server must hear of it
        _fail(server, reporter, error)
    server.close()
    return 0


def _complete(server: Server, completion: CompleteAttemptRequest) -> None:
    try:
        server.complete(completion)
    except RefusedError as error:
        raise ArtifactError("refused", f"The server refused the adapter: {error}") from None


def _fail(server: Server, reporter: Reporter, error: Exception) -> None:
    failure: Failure = describe(error)
    traceback.print_exception(error)
    reporter.event(failure.message, TuningJobEvent.LEVEL_ERROR)
    reporter.close()
    server.fail(failure.to_status(), failure.cause)


def _stop(_signal: int, _frame: FrameType | None) -> None:
    raise ProcessStoppedError


if __name__ == "__main__":
    sys.exit(main())
