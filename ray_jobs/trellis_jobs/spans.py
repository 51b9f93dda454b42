"""An attempt in its trace: one span for all of it, and one for each thing that it does in turn."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from trellis import tracing
from trellis.names import tenant_of
from trellis.tracing import NOTHING, Span, TracingError, Value
from trellis.v1.worker_pb2 import EndCause, StartAttemptResponse
from trellis_jobs.failure import JobStoppedError, describe

_PHASES: Final = {
    "waiting for workers": "job.wait_for_workers",
    "reading the data": "job.read",
    "loading the base": "job.load",
    "computing the reference": "job.reference",
    "reading the reference": "job.reference",
    "training": "job.train",
    "evaluating the base": "job.evaluate_base",
    "checking the adapter": "job.check",
    "checking the model": "job.check",
    "evaluating the adapter": "job.evaluate",
    "evaluating the model": "job.evaluate",
}
_EVENTS: Final = 40
"""Steps that are told of in the span of training, of which there may be many thousands."""
_log = logging.getLogger(__name__)


def start_tracing(service: str) -> None:
    """As the server has handed the settings on; a job is trained whether it can be traced or not."""
    try:
        tracing.start(service)
    except TracingError as error:
        _log.warning("This process is not traced. %s", error)


class AttemptSpans:
    """The spans of one attempt; they may be called on any thread. It costs nothing where nothing is traced."""

    def __init__(self, work: StartAttemptResponse) -> None:
        values: dict[str, Value] = {
            "trellis.tenant": tenant_of(work.tuning_job) or "",
            "trellis.job": work.tuning_job,
            "trellis.attempt": work.attempt,
            "trellis.resumed_from_step": work.resume_step,
        }
        traced = bool(work.traceparent)
        self._whole = tracing.begin("job.attempt", parent=work.traceparent, values=values) if traced else NOTHING
        self._phase: Span = NOTHING
        self._steps = 0

    @property
    def traceparent(self) -> str:
        """For the calls that end it."""
        return self._whole.traceparent

    def phase(self, name: str) -> None:
        """It does something else from now on."""
        self._phase.end()
        self._phase = self._part(_PHASES.get(name, "job.phase"), {})

    def stepped(self, step: int, total: int, loss: float, tokens: int) -> None:
        """A step of training is done; tokens are those of the whole job so far."""
        self._steps += 1
        if step % max(1, math.ceil(total / _EVENTS)) and step != total:
            return
        self._phase.event("step", {"trellis.step": step, "trellis.loss": loss, "trellis.trained_tokens": tokens})
        self._phase.set("trellis.steps", self._steps)

    @contextmanager
    def part(self, name: str, **values: Value) -> Iterator[None]:
        """Something that is done beside the rest."""
        span = self._part(name, {f"trellis.{key}": value for key, value in values.items()})
        try:
            yield
        except BaseException as error:
            span.fail(type(error).__name__)
            raise
        finally:
            span.end()

    def fail(self, error: BaseException) -> None:
        """It ends without an adapter. That it was asked to is no failure."""
        if isinstance(error, JobStoppedError):
            self._whole.set("trellis.end_cause", EndCause.Name(error.cause))
            return
        failure = describe(error)
        self._whole.set("trellis.end_cause", EndCause.Name(failure.cause))
        self._phase.fail(failure.reason)
        self._whole.fail(failure.reason)

    def end(self) -> None:
        """It is over."""
        self._phase.end()
        self._whole.set("trellis.steps", self._steps)
        self._whole.end()

    def _part(self, name: str, values: dict[str, Value]) -> Span:
        parent = self._whole.traceparent
        return tracing.begin(name, parent=parent, values=values) if parent else NOTHING
