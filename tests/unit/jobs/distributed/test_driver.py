"""What an attempt ends with, by what its workers said and how they ended."""

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError
from ray.train import WorkerGroupError

from trellis.errors import Reason
from trellis.v1.worker_pb2 import END_CAUSE_INFRASTRUCTURE, END_CAUSE_OUT_OF_MEMORY, END_CAUSE_USER
from trellis_jobs.distributed.driver import _judged
from trellis_jobs.distributed.mailbox import Mailbox, Message
from trellis_jobs.failure import Failure

DIVERGED = Failure(Reason.TRAINING_DIVERGED, "The loss of step 3 is nan.", END_CAUSE_USER)
ALONE = Failure(
    Reason.TRAINING_FAILED, "The training process failed: Connection closed by peer", END_CAUSE_INFRASTRUCTURE
)


def test_the_first_worker_that_failed_says_why() -> None:
    found = _judged(WorkerGroupError("all failed", {}), [(1, DIVERGED), (0, ALONE)])
    assert (found.reason, found.cause, str(found)) == (Reason.TRAINING_DIVERGED, END_CAUSE_USER, DIVERGED.message)


def test_a_worker_that_died_without_a_word_is_the_infrastructures_fault() -> None:
    found = _judged(WorkerGroupError("\x1b[36m[Rank 1]\x1b[0m\n\nworker died", {1: ActorDiedError()}), [])
    assert found.cause == END_CAUSE_INFRASTRUCTURE
    assert str(found) == "A worker was lost: Training failed due to worker errors: [Rank 1]"


def test_a_worker_that_ray_ended_for_its_memory_ran_out_of_it() -> None:
    found = _judged(WorkerGroupError("killed", {0: OutOfMemoryError("killed")}), [(1, ALONE)])
    assert found.cause == END_CAUSE_OUT_OF_MEMORY


def test_a_mailbox_keeps_messages_once_and_failures_for_ever() -> None:
    mailbox = Mailbox()
    assert mailbox.push([Message("phase", {"name": "training"})]) == 0
    mailbox.fail(1, DIVERGED)
    mailbox.stop(2)
    assert mailbox.take() == ([Message("phase", {"name": "training"})], [(1, DIVERGED)])
    assert mailbox.push([]) == 2
    assert mailbox.take() == ([], [(1, DIVERGED)])


@pytest.mark.parametrize("error", [RuntimeError("no such node"), SystemExit(1)])
def test_whatever_else_goes_wrong_is_tried_again(error: BaseException) -> None:
    assert _judged(error, []).cause == END_CAUSE_INFRASTRUCTURE
