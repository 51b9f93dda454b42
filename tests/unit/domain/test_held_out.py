"""What is said of what a job made, by its held-out data."""

from dataclasses import replace

import pytest
from tests.contract.store import samples

from trellis.server.domain.held_out import held_out_warnings, measured
from trellis.server.domain.tuning_job import Checkpoint, Evaluation, TuningJob

JOB = samples.job(spec=samples.spec(learning_rate=0.5, epochs=3))


def evaluation(loss: float, accuracy: float = 0.4, lines: int = 20) -> Evaluation:
    return Evaluation(loss, accuracy, 0.0, lines, 0)


def said_of(
    job: TuningJob, base: Evaluation | None, tuned: Evaluation | None, best: Checkpoint | None
) -> tuple[str, ...]:
    ended = replace(job, base_evaluation=measured(base), tuned_evaluation=measured(tuned))
    return held_out_warnings(ended, best)


def best(loss: float | None, step: int = 40) -> Checkpoint:
    return Checkpoint(step, 1, f"c/{step}", 9, samples.NOW, loss)


def test_an_adapter_that_is_worse_than_the_base_is_told() -> None:
    (said,) = said_of(JOB, evaluation(1.92), evaluation(2.4, 0.3), None)
    assert said == (
        "Held-out loss rose from 1.92 with the base model to 2.4: the adapter is worse than the base model on held-out "
        "examples. Try a lower learning rate than 0.5, fewer epochs than 3, or more or cleaner data."
    )


def test_one_that_is_too_sure_is_not_called_worse() -> None:
    (said,) = said_of(JOB, evaluation(1.92), evaluation(2.4, 0.6), None)
    assert "ranks more of the expected tokens first (60.0% instead of 40.0%), but is too sure where it errs." in said
    assert "is worse" not in said


def test_of_a_whole_model_in_one_epoch_it_is_told_as_it_is() -> None:
    whole = replace(JOB, spec=replace(JOB.spec, full=True, epochs=1))
    (said,) = said_of(whole, evaluation(1.92), evaluation(2.4, 0.3), best(1.5))
    assert "the model is worse than the base model" in said
    assert said.endswith("Try a lower learning rate than 0.5, or more or cleaner data.")


@pytest.mark.parametrize(
    ("base", "tuned", "checkpoint"),
    [
        pytest.param(evaluation(2.0), evaluation(1.0), None, id="better"),
        pytest.param(evaluation(2.0), evaluation(2.01), None, id="as good as the same"),
        pytest.param(evaluation(2.0), evaluation(1.0), best(0.98), id="nearly the best checkpoint"),
        pytest.param(evaluation(2.0), evaluation(1.0), best(None), id="no checkpoint was measured"),
        pytest.param(evaluation(0.0, lines=0), evaluation(0.0, lines=0), best(None), id="nothing held out"),
        pytest.param(None, None, None, id="nothing said"),
    ],
)
def test_nothing_is_said_where_there_is_nothing(
    base: Evaluation | None, tuned: Evaluation | None, checkpoint: Checkpoint | None
) -> None:
    assert said_of(JOB, base, tuned, checkpoint) == ()


def test_a_checkpoint_that_is_much_better_is_named() -> None:
    (said,) = said_of(JOB, evaluation(2.0), evaluation(1.5), best(1.1))
    assert said == (
        "Held-out loss was 1.1 after step 40, and is 1.5 at the end. Promote that checkpoint to an adapter, or submit the "
        "job again with an early_stopping_patience."
    )
    assert len(said_of(JOB, evaluation(2.0), evaluation(2.5), best(1.1))) == 2
    assert len(said_of(JOB, evaluation(2.0), evaluation(2.5), best(2.2))) == 1, "it is no better than the base"
