"""The attempt's process: starts the workers through Ray Train, hands their messages on, and stops them when asked."""

import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import ray
from ray.exceptions import OutOfMemoryError
from ray.train import RunConfig, ScalingConfig, WorkerGroupError
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trellis.errors import Reason
from trellis.spec import TrainSpec
from trellis.v1.worker_pb2 import (
    END_CAUSE_INFRASTRUCTURE,
    END_CAUSE_OUT_OF_MEMORY,
    STOP_REQUEST_CANCEL,
    STOP_REQUEST_UNSPECIFIED,
    AttemptUsage,
    CompleteAttemptRequest,
    StartAttemptResponse,
)
from trellis_jobs.committed import Committed
from trellis_jobs.distributed.environment import prepare_driver, worker_environment
from trellis_jobs.distributed.mailbox import Mailbox, Message
from trellis_jobs.distributed.order import Order, train_worker
from trellis_jobs.distributed.process_group import ProcessGroup
from trellis_jobs.evaluation import Evaluation
from trellis_jobs.failure import Failure, JobFailedError, JobStoppedError
from trellis_jobs.progress import Progress
from trellis_jobs.reporter import Reporter
from trellis_jobs.spans import AttemptSpans

_PAUSE: Final = 0.3
_COLLECTIVE_SECONDS: Final = 7200
"""How long a worker waits for the others; the first one may write a large model meanwhile."""
_PATIENCE_SECONDS: Final = 1800.0
"""Without a step for so long, or ten times the longest step so far, a run is given up."""
_START_SECONDS: Final = 900.0
"""So long the workers may take to be there, unless TRELLIS_WORKERS_START_SECONDS says otherwise."""
_LEFT_SECONDS: Final = 2.0
"""Of the time in which it is to stop, what the attempt needs to say that it has."""
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Resources:
    """What each worker reserves."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        gpus = f" and {self.gpus:g} GPUs" if self.gpus else ""
        return f"{self.cpus:g} CPUs{gpus}"

    def to_ray(self) -> dict[str, float]:
        """In Ray's words."""
        return {"CPU": self.cpus} | ({"GPU": self.gpus} if self.gpus else {})


@dataclass
class Driver:
    """Runs one attempt's work on workers."""

    work: StartAttemptResponse
    reporter: Reporter
    resources: Resources
    code_version: str
    spans: AttemptSpans | None = None
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        self.progress = Progress(self.reporter.progress, spans=self.spans)
        self._spec = TrainSpec.from_json(self.work.train_spec_json)
        self._began = time.monotonic()
        self._watchdog = Watchdog(time.monotonic)
        self._start_seconds = float(os.environ.get("TRELLIS_WORKERS_START_SECONDS") or _START_SECONDS)
        self._has_heard = False
        self._completion: CompleteAttemptRequest | None = None
        self._trained_tokens = 0
        self._tokens_before = 0

    def run(self) -> CompleteAttemptRequest:
        """Do the work; what to complete the attempt with. Raises JobStoppedError and JobFailedError."""
        self.progress.phase("waiting for workers")
        prepare_driver()
        mailbox = _mailbox()
        with tempfile.TemporaryDirectory() as folder:
            group = _Group(self._trainer(mailbox, folder))
            asked = STOP_REQUEST_UNSPECIFIED
            while group.is_running():
                time.sleep(_PAUSE)
                self._hand_on(mailbox)
                stop = self.reporter.stop
                if stop == STOP_REQUEST_CANCEL or time.monotonic() > self.reporter.stop_due - _LEFT_SECONDS:
                    self.reporter.check()
                if stop != asked:
                    asked = stop
                    ray.get(mailbox.stop.remote(int(stop)))
                if stop == STOP_REQUEST_UNSPECIFIED:
                    self.reporter.check()
                    self._watchdog.check()
                    self._check_start()
            failures = self._hand_on(mailbox)
        return self._ending(group.error, failures, asked)

    @property
    def usage(self) -> AttemptUsage:
        """What this attempt used: its tokens, and the seconds of all its workers together."""
        assert self._spec.distributed is not None
        seconds = (time.monotonic() - self._began) * self._spec.distributed.workers
        return AttemptUsage(trained_tokens=self._trained_tokens - self._tokens_before, trainer_seconds=seconds)

    def _trainer(self, mailbox: Any, folder: str) -> DataParallelTrainer:
        assert self._spec.distributed is not None
        threads = max(1, int(self.resources.cpus))
        order = Order(self.work.SerializeToString(), mailbox, threads, self.code_version)
        environment = worker_environment(threads, on_gpu=self.resources.gpus > 0)
        return DataParallelTrainer(
            train_worker,
            train_loop_config={"order": order},
            backend_config=ProcessGroup(_COLLECTIVE_SECONDS),
            scaling_config=ScalingConfig(
                num_workers=self._spec.distributed.workers,
                use_gpu=self.resources.gpus > 0,
                resources_per_worker=self.resources.to_ray(),
            ),
            # Ray Train stores nothing: checkpoints are ours, and a failed attempt is the server's to repeat (ADR 0011).
            run_config=RunConfig(
                name=f"attempt-{self.work.attempt}",
                storage_path=folder,
                worker_runtime_env={"env_vars": environment},  # type: ignore[call-arg]  # typed as the old API's
            ),
        )

    def _hand_on(self, mailbox: Any) -> list[tuple[int, Failure]]:
        messages, failures = ray.get(mailbox.take.remote())
        for message in messages:
            self._heed(message)
        self.reporter.usage(self.usage)
        return list(failures)

    def _check_start(self) -> None:
        """Workers start together or not at all: what is there is held by nobody while the rest is missing."""
        if self._has_heard or time.monotonic() - self._began < self._start_seconds:
            return
        assert self._spec.distributed is not None
        wanted = f"{self._spec.distributed.workers} workers with {self.resources}"
        message = (
            f"The cluster had no room for {wanted} each within {self._start_seconds:.0f} s: no node came, or too few."
        )
        raise JobFailedError(Reason.TRAINING_FAILED, message, cause=END_CAUSE_INFRASTRUCTURE)

    def _heed(self, message: Message) -> None:
        self._has_heard = True
        receivers: dict[str, Callable[..., None]] = {
            "event": self.reporter.event,
            "metrics": self._metrics,
            "checkpoint": self._checkpoint,
            "phase": self._phase,
            "training_from": self._training_from,
            "stepped": self._stepped,
            "evaluation_took": self.progress.evaluation_took,
            "finished": self._finished,
        }
        receivers[message.name](**message.values)

    def _phase(self, name: str) -> None:
        self._watchdog.rest()
        self.progress.phase(name)

    def _metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._watchdog.moved()
        self.reporter.metrics(step, values)

    def _checkpoint(self, committed: Committed) -> None:
        self._watchdog.moved()
        self.reporter.checkpoint(committed)

    def _training_from(self, step: int, total_steps: int, trained_tokens: int) -> None:
        self._watchdog.begin()
        self._trained_tokens = self._tokens_before = trained_tokens
        self.progress.training_from(step, total_steps, trained_tokens)

    def _stepped(self, step: int, loss: float, trained_tokens: int) -> None:
        self._watchdog.stepped()
        self._trained_tokens = trained_tokens
        self.progress.stepped(step, loss, trained_tokens)

    def _finished(
        self, adapter_digest: str, model_digest: str, base: Evaluation | None, tuned: Evaluation, trained_tokens: int
    ) -> None:
        self._trained_tokens = trained_tokens
        self._completion = CompleteAttemptRequest(
            adapter_digest=adapter_digest,
            model_digest=model_digest,
            base_evaluation=None if base is None else base.to_proto(),
            tuned_evaluation=tuned.to_proto(),
        )

    def _ending(
        self, error: BaseException | None, failures: list[tuple[int, Failure]], asked: int
    ) -> CompleteAttemptRequest:
        if error is not None:
            raise _judged(error, failures)
        if self._completion is None:
            assert asked != STOP_REQUEST_UNSPECIFIED
            raise JobStoppedError(asked)  # type: ignore[arg-type]  # a value of the enum
        self._completion.usage.CopyFrom(self.usage)
        return self._completion


def _mailbox() -> Any:
    """On this process's own node: of another one Ray may not know yet that it is lost."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailboxes: Any = ray.remote(num_cpus=0)(Mailbox)
    return mailboxes.options(scheduling_strategy=here).remote()


class _Group:
    """Ray Train's run, in a thread, as it only returns when all is over."""

    def __init__(self, trainer: DataParallelTrainer) -> None:
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(trainer,), name="workers", daemon=True)
        self._thread.start()

    def is_running(self) -> bool:
        """Whether the workers have not all ended yet."""
        return self._thread.is_alive()

    def _run(self, trainer: DataParallelTrainer) -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001  raised again by the driver
            self.error = error


class Watchdog:
    """Gives training up that does not come on: one worker waits for another that will not come."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last: float | None = None
        self._longest = 0.0

    def begin(self) -> None:
        """Training begins."""
        self._last = self._clock()

    def rest(self) -> None:
        """Something else is done from now on, which may take as long as it takes."""
        self._last = None

    def moved(self) -> None:
        """Something else than a step came on."""
        if self._last is not None:
            self._last = self._clock()

    def stepped(self) -> None:
        """A step is done."""
        if self._last is not None:
            self._longest = max(self._longest, self._clock() - self._last)
        self.begin()

    def check(self) -> None:
        """Raises JobFailedError after too long a silence."""
        silence = 0.0 if self._last is None else self._clock() - self._last
        if silence > max(_PATIENCE_SECONDS, 10 * self._longest):
            message = f"The workers have done no step for {silence:.0f} seconds, so the attempt is given up."
            raise JobFailedError(Reason.TRAINING_FAILED, message, cause=END_CAUSE_INFRASTRUCTURE)


def _judged(error: BaseException, failures: list[tuple[int, Failure]]) -> JobFailedError:
    """What to end the attempt with: what the first worker that failed said, or that one died without a word."""
    if isinstance(error, WorkerGroupError):
        killed = [cause for cause in error.worker_failures.values() if isinstance(cause, OutOfMemoryError)]
        if killed:
            message = "The host ran out of memory, and Ray ended a worker; give workers more memory, or more workers."
            return JobFailedError(Reason.TRAINING_FAILED, message, cause=END_CAUSE_OUT_OF_MEMORY)
    if failures:
        _, failure = failures[0]
        return JobFailedError(failure.reason, failure.message, cause=failure.cause)
    lines = [line for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    message = f"A worker was lost: {' '.join(lines[:2])[:500]}"
    return JobFailedError(Reason.TRAINING_FAILED, message, cause=END_CAUSE_INFRASTRUCTURE)
