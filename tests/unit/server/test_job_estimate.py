"""What a job is expected to take, by a rule that can be reckoned by hand."""

from dataclasses import replace
from typing import Any

import pytest
from tests.contract.store import samples

from trellis.server.app.auto_settings import ReportedData
from trellis.server.app.job_estimate import MeasuredSpeed, estimate_of
from trellis.server.app.job_needs import JobNeeds
from trellis.server.domain.dataset import ReportState
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.scheduler.capacity import Resources
from trellis.spec import Distributed, TrainSpec

ON_CPUS = JobNeeds(Resources(8.0, 0.0), Resources(1.0, 0.0), TrainerOptions(cpus=2.0, max_jobs=16))
ON_GPUS = JobNeeds(
    Resources(64.0, 8.0), Resources(4.0, 1.0), TrainerOptions(cpus=4.0, gpus=1.0, workers=2, max_jobs=16)
)
DATA = ReportedData(
    replace(samples.version(), line_count=1000),
    replace(
        samples.report(), state=ReportState.DONE, valid=True, trainable_token_count=40_000, token_count=100_000
    ),
    replace(samples.base(), parameter_count=1_000_000_000),
)  # fmt: skip
"""A thousand lines of 100 tokens."""


def spec(**changes: Any) -> TrainSpec:
    """Nothing is held out, unless it is asked for."""
    return replace(samples.spec(), **{"epochs": 1, "batch_size": 10, "held_out_fraction": 0.0, **changes})


def test_tokens_are_those_of_all_epochs() -> None:
    assert estimate_of(spec(epochs=3), DATA, ON_CPUS, None).trained_tokens == 300_000
    assert estimate_of(spec(held_out_fraction=0.2), DATA, ON_CPUS, None).trained_tokens == 80_000


def test_tokens_end_with_the_last_step() -> None:
    assert estimate_of(spec(epochs=3, max_steps=20), DATA, ON_CPUS, None).trained_tokens == 20_000


def test_lines_are_cut_at_the_context_length() -> None:
    assert estimate_of(spec(context_length=64), DATA, ON_CPUS, None).trained_tokens == 64_000


def test_replayed_lines_count_as_well() -> None:
    found = estimate_of(spec(replay_dataset=samples.spec().training_dataset), DATA, ON_CPUS, None)
    assert found.trained_tokens == 111_200  # each line once, and one that is replayed in each of 112 steps


def test_on_a_shared_trainer_by_what_the_newest_one_measured() -> None:
    """100,000 tokens at 1,000 a second of a trainer with two CPUs."""
    found = estimate_of(spec(), DATA, ON_CPUS, MeasuredSpeed(1000.0, 2.0))
    assert found.accelerators == 2.0 / 16
    assert found.accelerator_seconds == pytest.approx(200.0)
    assert found.seconds == pytest.approx(100.0 + 15.0)
    assert found.rule.startswith(
        "100,000 tokens at 500 a second and accelerator, as the newest trainer of baseModels/tiny"
    )


def test_by_itself_over_its_workers() -> None:
    """Four CPUs do 2,000 tokens a second; until the first step they are held too."""
    alone = spec(distributed=Distributed(workers=4))
    found = estimate_of(alone, DATA, ON_CPUS, MeasuredSpeed(1000.0, 2.0))
    assert found.accelerators == 4.0
    assert found.seconds == pytest.approx(50.0 + 15.0)
    assert found.accelerator_seconds == pytest.approx(4 * 65.0)
    full = estimate_of(replace(alone, full=True), DATA, ON_CPUS, MeasuredSpeed(1000.0, 2.0))
    assert full.seconds == pytest.approx(75.0 + 15.0)


def test_where_nothing_was_measured_by_the_number_of_parameters() -> None:
    """Four operations a token and parameter: 5 tokens a second on a CPU, 25,000 on a GPU."""
    assert estimate_of(spec(), DATA, ON_CPUS, None).accelerator_seconds == pytest.approx(20_000.0)
    on_gpus = estimate_of(spec(), DATA, ON_GPUS, None)
    assert on_gpus.accelerators == 2.0 / 16
    assert on_gpus.accelerator_seconds == pytest.approx(4.0)
    assert "1,000,000,000 parameters, 4 operations a token and parameter, 1e+14 operations a second" in on_gpus.rule


def test_evaluation_costs_its_forward_passes() -> None:
    """200 lines are held out: before, after and once in between, and all are answered twice, at half the cost each."""
    held_out = spec(held_out_fraction=0.2, max_evaluation_lines=200)
    found = estimate_of(held_out, DATA, ON_CPUS, MeasuredSpeed(1000.0, 2.0))
    assert found.accelerator_seconds == pytest.approx((80_000 + (200 * 3 + 2 * 200) * 100 / 2) / 500)


def test_of_preferences_both_answers_count() -> None:
    assert estimate_of(spec(method="preference", context_length=64), DATA, ON_CPUS, None).trained_tokens == 100_000
