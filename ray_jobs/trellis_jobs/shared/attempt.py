"""One attempt as the server sees it: its work, its reports, its log, its end."""

import logging
import time
import traceback
from collections.abc import Callable

from trellis.artifacts import ArtifactError
from trellis.spec import TrainSpec
from trellis.v1.trainer_pb2 import ClaimedAttempt
from trellis.v1.tuning_job_pb2 import TuningJobEvent
from trellis.v1.worker_pb2 import AttemptUsage, CompleteAttemptRequest, StartAttemptResponse
from trellis_jobs.failure import Failure, JobStoppedError, describe
from trellis_jobs.progress import Progress
from trellis_jobs.reporter import Reporter
from trellis_jobs.server import FencedError, RefusedError, Server
from trellis_jobs.spans import AttemptSpans

_log = logging.getLogger(__name__)


class Attempt:
    """An attempt that was given to this trainer. What blocks says so; it is called on other threads than the loop's."""

    def __init__(self, endpoint: str, claimed: ClaimedAttempt, code_version: str) -> None:
        self.tuning_job = claimed.tuning_job
        self.number = claimed.attempt
        self.code_version = code_version
        self._server = Server(endpoint, claimed.token, on_fenced=_nothing)
        self._work: StartAttemptResponse | None = None
        self._spec: TrainSpec | None = None
        self._reporter: Reporter | None = None
        self.spans = AttemptSpans(StartAttemptResponse())
        """Of nothing, before it has started."""
        self._tokens = 0
        self._seconds = 0.0

    def start(self) -> None:
        """Get the work, and begin to report. Blocks. Raises FencedError, and InvalidArgument for a spec of the future."""
        self._work = self._server.start(self.code_version)
        self.spans = AttemptSpans(self._work)
        self._server.traceparent = self.spans.traceparent
        self._reporter = Reporter(self._server.report, self._work.next_report, self._work.heartbeat_seconds)
        self.progress = Progress(self._reporter.progress, log=self.log, spans=self.spans)
        self._spec = TrainSpec.from_json(self._work.train_spec_json)

    @property
    def work(self) -> StartAttemptResponse:
        """What the server gave."""
        assert self._work is not None
        return self._work

    @property
    def spec(self) -> TrainSpec:
        """What is to be trained."""
        assert self._spec is not None
        return self._spec

    @property
    def reporter(self) -> Reporter:
        """Tells the server what happens."""
        assert self._reporter is not None
        return self._reporter

    def log(self, message: str) -> None:
        """A line of the job's own log; the trainer's says whose it is."""
        _log.info("%s: %s", self.tuning_job, message)
        self.reporter.log(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")

    def use(self, *, tokens: int = 0, seconds: float = 0.0) -> None:
        """Count what the attempt used."""
        self._tokens += tokens
        self._seconds += seconds
        self.reporter.usage(self.usage)

    @property
    def usage(self) -> AttemptUsage:
        """What it has used so far."""
        return AttemptUsage(trained_tokens=self._tokens, trainer_seconds=self._seconds)

    def complete(self, completion: CompleteAttemptRequest) -> None:
        """Hand the adapter in. Blocks. Raises ArtifactError when the server finds it wrong."""
        self.reporter.close()
        self.reporter.check()
        completion.usage.CopyFrom(self.usage)
        try:
            self._server.complete(completion)
        except FencedError:
            raise
        except RefusedError as error:
            raise ArtifactError("refused", f"The server refused the adapter: {error}") from None

    def fail(self, error: BaseException) -> None:
        """Say why it ends without an adapter, once all reports are acknowledged. Blocks."""
        self.spans.fail(error)
        if isinstance(error, FencedError):
            _log.info("%s: attempt %d is not ours any more.", self.tuning_job, self.number)
        elif isinstance(error, JobStoppedError):
            self.log(str(error))
            self._end(lambda: self._server.fail(error.to_status(), error.cause, self.usage))
        else:
            failure = describe(error)
            self._tell(error, failure)
            self._end(lambda: self._server.fail(failure.to_status(), failure.cause, self.usage))

    def close(self) -> None:
        """Let the connection go; calls that still wait for an answer end."""
        self.spans.end()
        self._server.close()
        if self._reporter is not None:
            self._reporter.close()

    def _tell(self, error: BaseException, failure: Failure) -> None:
        for line in "".join(traceback.format_exception(error)).splitlines():
            self.log(line)
        self.reporter.event(failure.message, TuningJobEvent.LEVEL_ERROR)

    def _end(self, call: Callable[[], None]) -> None:
        self.reporter.close()
        try:
            call()
        except RefusedError as error:
            _log.info("%s: the server does not take the attempt's end: %s", self.tuning_job, error)


def _nothing() -> None:
    """A fenced attempt is dropped; the trainer goes on with the others."""
