import json
from dataclasses import replace

import pytest
from hypothesis import given, strategies as st

from trellis.errors import InvalidArgument
from trellis.spec import Distributed, Lora, Preference, TrainSpec

SPEC = TrainSpec(
    base_model="baseModels/tiny",
    base_source="/models/tiny",
    base_revision="r",
    tokenizer_digest="d",
    training_dataset="tenants/acme/datasets/support/versions/x",
    training_sha256="x",
    context_length=512,
)


OFFLOADED = '{"zero_optimization": {"stage": "auto", "offload_param": {"device": "cpu"}}}'


@given(
    rank=st.integers(1, 256),
    modules=st.lists(st.sampled_from(["q_proj", "v_proj"]), unique=True),
    learning_rate=st.floats(1e-9, 1.0),
    max_steps=st.none() | st.integers(1, 100),
)
def test_json_gives_the_same_spec_back(
    rank: int, modules: list[str], learning_rate: float, max_steps: int | None
) -> None:
    spec = replace(
        SPEC, lora=Lora(rank, 2.0 * rank, 0.0, tuple(modules)), learning_rate=learning_rate, max_steps=max_steps
    )
    assert TrainSpec.from_json(spec.to_json()) == spec
    assert spec.violations(512) == ()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"lora": Lora(rank=0)}, "lora.rank"),
        ({"lora": Lora(rank=10_000)}, "lora.rank"),
        ({"lora": Lora(alpha=float("inf"))}, "lora.alpha"),
        ({"lora": Lora(dropout=1.0)}, "lora.dropout"),
        ({"lora": Lora(target_modules=("../q",))}, "lora.target_modules"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"gradient_accumulation_steps": 3}, "gradient_accumulation_steps"),
        ({"context_length": 513}, "context_length"),
        ({"held_out_fraction": 0.6}, "held_out_fraction"),
        ({"seed": -1}, "seed"),
        ({"warmup_ratio": 1.1}, "warmup_ratio"),
        ({"max_steps": 0}, "max_steps"),
        ({"evaluation_steps": 0}, "evaluation_steps"),
        ({"early_stopping_patience": 0}, "early_stopping_patience"),
        ({"replay_dataset": "d", "replay_fraction": 0.95}, "replay_fraction"),
        ({"replay_fraction": 0.2}, "replay_fraction"),
        ({"replay_dataset": "d", "batch_size": 1}, "batch_size"),
        ({"early_stopping_patience": 2, "held_out_fraction": 0.0}, "early_stopping_patience"),
        ({"full": True, "lora": Lora(rank=8)}, "lora"),
        ({"full": True, "quantization": "nf4"}, "quantization"),
        ({"batch_size": 4096, "gradient_accumulation_steps": 2}, "batch_size"),
        ({"evaluation_steps": 5, "held_out_fraction": 0.0}, "evaluation_steps"),
        ({"validation_dataset": "d", "held_out_fraction": 0.3}, "held_out_fraction"),
    ],
)
def test_each_field_is_checked(change: dict[str, object], field: str) -> None:
    violations = replace(SPEC, **change).violations(512)
    assert [v.field for v in violations] == [f"tuning_job.supervised.{field}"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"method": "preference", "epochs": 0}, "preference.training.epochs"),
        ({"method": "pretraining", "epochs": 0}, "pretraining.training.epochs"),
        ({"method": "preference", "preference": Preference(beta=0.0)}, "preference.beta"),
        ({"method": "preference", "preference": Preference(label_smoothing=0.5)}, "preference.label_smoothing"),
        ({"method": "preference", "preference": Preference("orpo", 0.1, 0.1)}, "preference.label_smoothing"),
        ({"method": "preference", "preference": Preference("orpo", reference_free=True)}, "preference.reference_free"),
        ({"full": True, "initial_adapter": "tenants/a/adapters/b"}, "initial_adapter"),
        ({"distributed": Distributed(workers=0)}, "distributed.workers"),
        ({"distributed": Distributed(zero_stage=4)}, "distributed.zero_stage"),
        ({"distributed": Distributed(zero_stage=2, offload="all")}, "distributed.offload"),
        ({"distributed": Distributed(zero_stage=0, offload="optimizer")}, "distributed.zero_stage"),
        ({"distributed": Distributed(config_json="{")}, "distributed.config_json"),
        ({"distributed": Distributed(config_json="[]")}, "distributed.config_json"),
        ({"distributed": Distributed(config_json='{"bf16": {}}')}, "distributed.config_json"),
        ({"distributed": Distributed(config_json='{"zero_optimization": 3}')}, "distributed.config_json"),
        ({"distributed": Distributed(config_json='{"zero_optimization": {"stage": 4}}')}, "distributed.config_json"),
        (
            {"distributed": Distributed(2, 2, config_json='{"zero_optimization": {"stage": 3}}')},
            "distributed.config_json",
        ),
        ({"distributed": Distributed(offload="none", config_json=OFFLOADED)}, "distributed.config_json"),
        ({"distributed": Distributed(zero_stage=2, config_json=OFFLOADED)}, "distributed.config_json"),
        ({"quantization": "nf4", "distributed": Distributed(zero_stage=3)}, "distributed.zero_stage"),
        ({"quantization": "nf4", "distributed": Distributed(offload="all")}, "distributed.offload"),
        ({"quantization": "nf4", "distributed": Distributed(config_json=OFFLOADED)}, "distributed.config_json"),
    ],
)
def test_what_goes_beyond_the_settings_is_checked_too(change: dict[str, object], field: str) -> None:
    (violation,) = replace(SPEC, **change).violations(512)
    assert violation.field == f"tuning_job.{field}"
    assert violation.description.endswith(".")


@pytest.mark.parametrize(
    "change",
    [
        {"method": "preference", "preference": Preference("dpo", 0.1, 0.2, reference_free=True)},
        {"early_stopping_patience": 2, "held_out_fraction": 0.0, "validation_dataset": "d"},
        {"replay_dataset": "d", "replay_fraction": 0.9},
        {"full": True, "distributed": Distributed(2, 3, "all", True, '{"wall_clock_breakdown": true}')},
        {"quantization": "nf4", "initial_adapter": "tenants/a/adapters/b"},
        {"quantization": "nf4", "distributed": Distributed(2, 2, "optimizer")},
        {"distributed": Distributed(config_json='{"train_batch_size": "auto", "bf16": "auto"}')},
        {"distributed": Distributed(config_json=OFFLOADED)},
        {"validation_dataset": "d", "held_out_fraction": 0.0, "evaluation_steps": 5},
    ],
)
def test_what_fits_together_is_let_through_and_read_back(change: dict[str, object]) -> None:
    spec = replace(SPEC, **change)
    assert spec.violations(512) == ()
    assert TrainSpec.from_json(spec.to_json()) == spec


def test_another_version_or_field_is_refused() -> None:
    values = json.loads(SPEC.to_json())
    with pytest.raises(InvalidArgument, match="version"):
        TrainSpec.from_json(json.dumps({**values, "version": 3}))
    with pytest.raises(InvalidArgument, match="no such field"):
        TrainSpec.from_json(json.dumps({**values, "colour": "red"}))


def test_a_deepspeed_config_asks_for_stage_and_offloading_too() -> None:
    assert Distributed(config_json=OFFLOADED).asked == Distributed(offload="all", config_json=OFFLOADED)
    given = json.dumps({"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}})
    asked = Distributed(2, config_json=given).asked
    assert (asked.workers, asked.zero_stage, asked.offload) == (2, 2, "optimizer")
    kept = json.dumps({"zero_optimization": {"offload_optimizer": {"device": "none"}}})
    assert Distributed(zero_stage=1, config_json=kept).asked == Distributed(zero_stage=1, config_json=kept)
