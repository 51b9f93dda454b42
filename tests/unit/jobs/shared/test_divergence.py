"""When a job is stopped because nothing is learnt any more, and which lines it is told."""

import math

import pytest

from trellis.errors import Reason
from trellis.tokens import EncodedExample
from trellis.v1.worker_pb2 import END_CAUSE_USER
from trellis_jobs.failure import JobFailedError
from trellis_jobs.methods.items import EncodedItem, SequenceItems
from trellis_jobs.shared.divergence import refuse_divergence, refuse_unmeasured


def items_of(*lines: int) -> SequenceItems:
    items = SequenceItems()
    for line in lines:
        items.add(line, EncodedItem((EncodedExample([1, 2], [0.0, 1.0], False, 2),), 1.0))
    return items


def said(loss: float, norm: float, items: SequenceItems, batch: list[int]) -> str:
    with pytest.raises(JobFailedError) as raised:
        refuse_divergence(loss, norm, 7, items, batch)
    assert (raised.value.reason, raised.value.cause) == (Reason.TRAINING_DIVERGED, END_CAUSE_USER)
    return str(raised.value)


@pytest.mark.parametrize(
    ("loss", "norm", "what"),
    [
        (math.nan, 1.0, "The loss of step 7 is nan."),
        (math.inf, 1.0, "The loss of step 7 is inf."),
        (2.0, math.nan, "The gradients of step 7 are not finite."),
        (2.0, math.inf, "The gradients of step 7 are not finite."),
        (2.0, 0.0, "The gradients of step 7 are all zero, so nothing is learnt."),
    ],
)
def test_the_lines_of_the_step_are_named(loss: float, norm: float, what: str) -> None:
    sentence = said(loss, norm, items_of(11, 12, 13, -5), [2, 0, 3])
    assert sentence == (
        f"{what} It learnt from lines 13, 11 and replayed lines 5. Lower learning_rate, or look at these lines."
    )


def test_of_many_lines_the_first_are_named() -> None:
    assert "lines 1, 2, 3, 4, 5, 6, 7, 8 and 12 more." in said(math.nan, 1.0, items_of(*range(1, 21)), list(range(20)))


@pytest.mark.parametrize(("loss", "norm"), [(2.0, 1e-30), (2.0, 1e30), (1e-7, 0.0), (0.0, 0.0)])
def test_what_is_learnt_by_heart_or_slowly_goes_on(loss: float, norm: float) -> None:
    refuse_divergence(loss, norm, 7, items_of(1), [0])
    refuse_unmeasured(loss)
