"""What the rules choose, for small and large bases and few and many lines."""

from dataclasses import replace

import pytest
from hypothesis import example, given, strategies as st

from trellis.auto import AUTO_FIELDS, Facts, resolve
from trellis.spec import Distributed, Lora, Preference, TrainSpec

SPEC = TrainSpec(
    base_model="baseModels/tiny",
    base_source="/models/tiny",
    base_revision="r",
    tokenizer_digest="d",
    training_dataset="tenants/acme/datasets/support/versions/x",
    training_sha256="x",
    context_length=1024,
    auto=AUTO_FIELDS,
)
TINY = Facts(6_950_000, 400, 8_000)
LARGE = Facts(8_000_000_000, 20_000, 4_000_000)


def chosen(spec: TrainSpec) -> dict[str, str]:
    return {one.field: one.value for one in spec.resolved}


def test_a_tiny_base_with_few_lines_learns_fast_and_often() -> None:
    spec = resolve(SPEC, TINY)
    assert (spec.learning_rate, spec.epochs, spec.batch_size) == (5e-3, 5, 8)
    assert spec.lora == Lora(rank=16, alpha=32.0)
    assert (spec.held_out_fraction, spec.checkpoint_steps, spec.evaluation_steps) == (0.1, 50, 45)
    assert spec.auto == ()


def test_a_large_base_with_many_lines_learns_as_its_recipes_do() -> None:
    spec = resolve(SPEC, LARGE)
    assert (spec.learning_rate, spec.epochs, spec.batch_size, spec.lora.rank) == (1.9e-4, 3, 32, 32)
    assert (spec.held_out_fraction, spec.warmup_ratio) == (0.05, 0.03)
    assert resolve(SPEC, replace(LARGE, parameters=70_000_000_000)).learning_rate == 1e-4
    assert resolve(SPEC, replace(LARGE, lines=1_000_000)).epochs == 1


@pytest.mark.parametrize(
    ("change", "rate"),
    [
        ({}, 2e-4),
        ({"full": True}, 2e-5),
        ({"method": "pretraining"}, 2e-4),
        ({"method": "preference"}, 2e-5),
        ({"method": "preference", "full": True}, 2e-6),
        ({"method": "preference", "preference": Preference("orpo"), "full": True}, 5e-6),
    ],
)
def test_each_method_has_its_own_rate_at_seven_billion(change: dict[str, object], rate: float) -> None:
    facts = replace(LARGE, parameters=7_000_000_000)
    assert resolve(replace(SPEC, **change), facts).learning_rate == pytest.approx(rate)


def test_each_choice_is_told_with_its_path_value_and_reason() -> None:
    spec = resolve(replace(SPEC, method="preference"), TINY)
    assert len(spec.resolved) == len(AUTO_FIELDS)
    told = {one.field: one for one in spec.resolved}
    assert told["preference.training.learning_rate"].value == "0.0005"
    assert "7 million parameters" in told["preference.training.learning_rate"].rule
    assert told["preference.training.lora.rank"].value == "16"
    assert told["preference.beta"].value == "0.1"
    assert all(one.rule.endswith(".") and (one.rule[0].isupper() or one.rule[0].isdigit()) for one in spec.resolved)


def test_what_was_given_stays_and_is_heeded() -> None:
    auto = tuple(name for name in AUTO_FIELDS if name not in {"epochs", "lora.rank", "batch_size"})
    spec = resolve(replace(SPEC, epochs=1, batch_size=2, lora=Lora(rank=4), auto=auto), TINY)
    assert (spec.epochs, spec.batch_size, spec.lora) == (1, 2, Lora(rank=4, alpha=8.0))
    assert not {"supervised.epochs", "supervised.lora.rank", "supervised.batch_size"} & chosen(spec).keys()
    assert resolve(replace(SPEC, auto=()), TINY) == replace(SPEC, auto=())


def test_steps_that_were_given_are_all_done() -> None:
    spec = resolve(replace(SPEC, max_steps=400), TINY)
    assert spec.epochs == 9  # of 45 steps each


def test_batches_are_multiples_of_parts_and_workers_and_smaller_for_long_lines() -> None:
    spec = replace(SPEC, gradient_accumulation_steps=3, distributed=Distributed(workers=2))
    auto = tuple(name for name in AUTO_FIELDS if name != "gradient_accumulation_steps")
    assert resolve(replace(spec, auto=auto), LARGE).batch_size == 36
    assert resolve(SPEC, Facts(8_000_000_000, 20_000, 20_000 * 8000)).batch_size == 4


def test_epochs_of_text_count_pieces_that_fit_the_context() -> None:
    spec = replace(SPEC, method="pretraining", context_length=101)
    assert resolve(spec, Facts(1_000_000_000, 10, 1_000_000)).batch_size == 16  # 9,000 pieces
    assert resolve(spec, Facts(1_000_000_000, 10, 1_000_000)).epochs == 1
    assert resolve(spec, Facts(1_000_000_000, 10, 1_000)).epochs == 4


def test_evaluations_are_more_frequent_where_training_stops_by_them() -> None:
    usual, watched = (resolve(replace(SPEC, early_stopping_patience=n), TINY).evaluation_steps for n in (None, 2))
    assert (usual, watched) == (45, 23)


@given(
    parameters=st.integers(0, 10**12),
    lines=st.integers(0, 10**8),
    tokens=st.integers(0, 10**11),
    method=st.sampled_from(["supervised", "preference", "pretraining"]),
    full=st.booleans(),
    parts=st.integers(1, 1024),
    max_steps=st.none() | st.integers(1, 10**7),
    replay=st.booleans(),
)
@example(
    parameters=0, lines=1_600_994, tokens=0, method="supervised", full=False, parts=1, max_steps=5_000_001, replay=False
)
def test_whatever_the_data_the_outcome_is_lawful(
    parameters: int, lines: int, tokens: int, method: str, full: bool, parts: int, max_steps: int | None, replay: bool
) -> None:
    auto = tuple(name for name in AUTO_FIELDS if name != "gradient_accumulation_steps")
    auto = tuple(name for name in auto if not (full and name.startswith("lora.")))
    changes = {"method": method, "full": full, "gradient_accumulation_steps": parts, "max_steps": max_steps}
    spec = replace(SPEC, **changes, auto=auto, replay_dataset="tenants/a/datasets/b/versions/c" if replay else "")
    assert resolve(spec, Facts(parameters, lines, tokens)).violations(1024) == ()
