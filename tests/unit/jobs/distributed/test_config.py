"""The DeepSpeed config."""

import json

import pytest

from trellis.errors import InvalidArgument
from trellis.spec import Distributed, TrainSpec
from trellis.v1.worker_pb2 import END_CAUSE_USER
from trellis_jobs.distributed.config import deepspeed_config, refuse_values
from trellis_jobs.distributed.zero import Layout
from trellis_jobs.failure import JobFailedError


def spec(config: object = None) -> TrainSpec:
    text = "" if config is None else json.dumps(config)
    return TrainSpec("b", "s", "r", "t", "d", "0", 64, max_grad_norm=0.5, distributed=Distributed(config_json=text))


def test_the_layout_and_the_spec_decide() -> None:
    config = deepspeed_config(spec(), Layout(3, "all", checkpointing=True), bf16=True)
    assert config["zero_optimization"]["stage"] == 3
    assert config["zero_optimization"]["offload_param"]["device"] == "cpu"
    assert config["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert config["bf16"] == {"enabled": True}
    assert config["gradient_clipping"] == 0.5
    plain = deepspeed_config(spec(), Layout(2, "none", checkpointing=False), bf16=False)["zero_optimization"]
    assert "offload_optimizer" not in plain
    assert "offload_param" not in plain


def test_a_given_config_is_laid_over_part_by_part() -> None:
    given = {"zero_optimization": {"reduce_bucket_size": 1000}, "wall_clock_breakdown": True}
    config = deepspeed_config(spec(given), Layout(2, "none", checkpointing=False), bf16=False)
    assert config["zero_optimization"]["reduce_bucket_size"] == 1000
    assert config["zero_optimization"]["stage"] == 2
    assert config["wall_clock_breakdown"] is True


def test_what_a_given_config_leaves_open_is_derived() -> None:
    given = {"zero_optimization": {"stage": "auto", "reduce_bucket_size": "auto"}, "gradient_clipping": "auto"}
    config = deepspeed_config(spec(given), Layout(2, "none", checkpointing=False), bf16=False)
    assert config == deepspeed_config(spec(), Layout(2, "none", checkpointing=False), bf16=False)


@pytest.mark.parametrize("name", ["train_batch_size", "optimizer", "gradient_clipping", "scheduler"])
def test_what_decides_the_losses_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match=f"{name} follows from the job's settings"):
        deepspeed_config(spec({name: 1}), Layout(2, "none", checkpointing=False), bf16=False)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"zero_optimization": {"reduce_bucket_size": "large"}}, "reduce_bucket_size Input should be a valid integer"),
        ({"communication_data_type": "fp8"}, "Supported data types"),
        ({"communication_data_type": 8}, "does not take"),
        ({"zero_optimization": {"offload_param": {"device": "cpu", "buffer_count": -1}}}, "buffer_count"),
    ],
)
def test_a_value_that_deepspeed_does_not_take_is_told_before_anything_is_loaded(
    given: object, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    config = deepspeed_config(spec(given), Layout(3, "none", checkpointing=False), bf16=False)
    with pytest.raises(JobFailedError, match=words) as caught:
        refuse_values(config)
    assert caught.value.cause == END_CAUSE_USER
    assert "\n" not in str(caught.value)
    refuse_values(deepspeed_config(spec(), Layout(3, "all", checkpointing=False), bf16=True))


def test_a_config_that_is_no_object_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="not a JSON object"):
        deepspeed_config(spec([1]), Layout(2, "none", checkpointing=False), bf16=False)
