"""What the first worker tells the driver, from a thread of its own, and what it hears back."""

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from trellis.v1.tuning_job_pb2 import TuningJobEvent
from trellis.v1.worker_pb2 import STOP_REQUEST_UNSPECIFIED
from trellis_jobs.committed import Committed
from trellis_jobs.distributed.mailbox import Message
from trellis_jobs.evaluation import Evaluation

_PAUSE: Final = 0.2


class Post:
    """Sends messages to the driver's mailbox about five times a second; `stop` is what the driver wants.

    Only the first worker's says anything, so that all workers can run the same lines.
    """

    def __init__(self, send: Callable[[list[Message]], int], rank: int) -> None:
        self._send = send
        self._speaks = rank == 0
        self._waiting: list[Message] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.stop = int(STOP_REQUEST_UNSPECIFIED)
        self._thread = threading.Thread(target=self._run, name="post", daemon=True)
        if self._speaks:
            self._thread.start()

    def event(self, message: str, level: int = TuningJobEvent.LEVEL_INFO) -> None:
        """A sentence on what happened."""
        self._say("event", message=message, level=level)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """What was measured at a step."""
        self._say("metrics", step=step, values=dict(values))

    def checkpoint(self, committed: Committed) -> None:
        """A checkpoint whose commit marker is written."""
        self._say("checkpoint", committed=committed)

    def phase(self, name: str) -> None:
        """The job does something else from now on."""
        self._say("phase", name=name)

    def training_from(self, step: int, total_steps: int, trained_tokens: int) -> None:
        """Training begins, or goes on from a checkpoint."""
        self._say("training_from", step=step, total_steps=total_steps, trained_tokens=trained_tokens)

    def stepped(self, step: int, loss: float, trained_tokens: int) -> None:
        """A step is done."""
        self._say("stepped", step=step, loss=loss, trained_tokens=trained_tokens)

    def evaluation_took(self, seconds: float) -> None:
        """How long the base's evaluation took."""
        self._say("evaluation_took", seconds=seconds)

    def finished(
        self, adapter_digest: str, model_digest: str, base: Evaluation | None, tuned: Evaluation, trained_tokens: int
    ) -> None:
        """All is done and stored."""
        self._say(
            "finished",
            adapter_digest=adapter_digest,
            model_digest=model_digest,
            base=base,
            tuned=tuned,
            trained_tokens=trained_tokens,
        )

    def close(self) -> None:
        """Send all that waits."""
        self._closing.set()
        if self._speaks:
            self._thread.join()

    def _say(self, message: str, /, **values: Any) -> None:
        if self._speaks:
            with self._lock:
                self._waiting.append(Message(message, values))

    def _run(self) -> None:
        while not self._closing.wait(_PAUSE):
            self._exchange()
        self._exchange()

    def _exchange(self) -> None:
        with self._lock:
            messages, self._waiting = self._waiting, []
        self.stop = self._send(messages)
