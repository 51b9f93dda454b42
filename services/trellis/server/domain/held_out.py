"""What the owner of a job that ended well should know by its held-out data, as sentences with what to do."""

from collections.abc import Iterator

from trellis.server.domain.tuning_job import Checkpoint, Evaluation, TuningJob

_WORSE = 1.01
"""Times the base's loss; what is less may be chance."""
_PASSED = 1.05
"""Times the loss of the best checkpoint."""


def measured(evaluation: Evaluation | None) -> Evaluation | None:
    """The evaluation; None where no line was held out, as its zeros mean nothing."""
    return evaluation if evaluation is not None and evaluation.line_count else None


def held_out_warnings(job: TuningJob, best: Checkpoint | None) -> tuple[str, ...]:
    """Of what a job made, by its evaluations and its best checkpoint; nothing where nothing was measured."""
    base, tuned = job.base_evaluation, job.tuned_evaluation
    return () if tuned is None else (*_worse(job, base, tuned), *_passed(job, base, tuned, best))


def _worse(job: TuningJob, base: Evaluation | None, tuned: Evaluation) -> Iterator[str]:
    if base is None or tuned.loss <= base.loss * _WORSE:
        return
    what = "model" if job.spec.full else "adapter"
    said = f"Held-out loss rose from {base.loss:.4g} with the base model to {tuned.loss:.4g}:"
    if tuned.token_accuracy > base.token_accuracy:
        right = f"{tuned.token_accuracy:.1%} instead of {base.token_accuracy:.1%}"
        said = f"{said} the {what} ranks more of the expected tokens first ({right}), but is too sure where it errs."
    else:
        said = f"{said} the {what} is worse than the base model on held-out examples."
    epochs = f", fewer epochs than {job.spec.epochs}" if job.spec.epochs > 1 else ""
    yield f"{said} Try a lower learning rate than {job.spec.learning_rate:g}{epochs}, or more or cleaner data."


def _passed(job: TuningJob, base: Evaluation | None, tuned: Evaluation, best: Checkpoint | None) -> Iterator[str]:
    if job.spec.full or best is None or best.valid_loss is None or tuned.loss <= best.valid_loss * _PASSED:
        return
    if base is None or best.valid_loss < base.loss:
        yield (
            f"Held-out loss was {best.valid_loss:.4g} after step {best.step}, and is {tuned.loss:.4g} at the end. Promote "
            "that checkpoint to an adapter, or submit the job again with an early_stopping_patience."
        )
