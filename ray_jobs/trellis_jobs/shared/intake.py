"""Takes in what the server gives: starts attempts, and declines those that have no room after all."""

import logging

from trellis.errors import Reason
from trellis.v1.trainer_pb2 import ClaimedAttempt
from trellis.v1.worker_pb2 import END_CAUSE_DECLINED
from trellis_jobs.failure import JobFailedError
from trellis_jobs.server import FencedError
from trellis_jobs.shared.attempt import Attempt
from trellis_jobs.shared.claims import Status
from trellis_jobs.shared.memory import Room
from trellis_jobs.shared.trainer import Trainer

_log = logging.getLogger(__name__)


class Intake:
    """Between the thread that claims and the loop; closed until the base is loaded."""

    def __init__(self, endpoint: str, code_version: str) -> None:
        self._endpoint = endpoint
        self._code_version = code_version
        self._room: Room | None = None
        self._trainer: Trainer | None = None

    def open(self, room: Room, trainer: Trainer) -> None:
        """Take attempts from now on."""
        self._trainer = trainer
        self._room = room

    def status(self) -> Status:
        """What the server is told."""
        if self._room is None or self._trainer is None:
            return Status(None)
        if self._trainer.stopping:
            return Status(None, self._trainer.jobs)
        return Status(self._room.to_proto(), self._trainer.jobs, self._trainer.tokens_per_second)

    def begin(self, claimed: ClaimedAttempt) -> None:
        """Start an attempt and give it to the loop, or decline it."""
        assert self._room is not None
        assert self._trainer is not None
        attempt = Attempt(self._endpoint, claimed, self._code_version)
        try:
            attempt.start()
            refusal = self._room.take(attempt, attempt.spec.lora, attempt.spec.context_length)
            if refusal:
                raise JobFailedError(Reason.TRAINING_FAILED, refusal, cause=END_CAUSE_DECLINED)
        except Exception as error:  # noqa: BLE001  the server hears of it, and the next attempt is looked at
            _refuse(attempt, error)
            return
        self._trainer.give(attempt)


def _refuse(attempt: Attempt, error: Exception) -> None:
    _log.info("%s is not taken: %s", attempt.tuning_job, error)
    if not isinstance(error, FencedError):
        attempt.fail(error)
    attempt.close()
