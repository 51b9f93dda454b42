from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from ray import serve

from trellis.engine_options import EngineOptions
from trellis.serving.config import EngineConfig


def args(**options: Any) -> dict[str, Any]:
    return {
        "base_model": "baseModels/tiny",
        "source": "/models/tiny",
        "revision": "sha256:1",
        "tokenizer_digest": "t",
        "store_url": "/objects",
        "secret_sha256": "0",
        "options": options,
    }


def test_what_the_server_says_is_what_the_replica_reads() -> None:
    options = EngineOptions(gpus=1, max_running=7, max_waiting=3, step_tokens=99, tenant_room=2, kv_bytes=5)
    config = EngineConfig.from_args(args(**asdict(options)))
    assert config.options == options
    limits = config.limits
    assert (limits.max_running, limits.max_waiting, limits.tenant_room, limits.step_tokens) == (7, 3, 2, 99)
    assert (config.device, config.kv_bytes, config.slack) == ("cuda", 5, 3)
    assert EngineConfig.from_args({k: v for k, v in args().items() if k != "options"}).options == EngineOptions()


def test_the_cache_is_small_on_a_cpu_and_the_runners_choice_on_a_gpu() -> None:
    assert EngineConfig.from_args(args()).kv_bytes == 64 << 20
    assert EngineConfig.from_args(args(gpus=1)).kv_bytes == 0


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"nonsense": 1}, "no setting 'nonsense'"),
        ({"kind": "sglang"}, "one of trellis, vllm"),
        ({"precision": "fp8"}, "one of auto, fp32, bf16"),
        ({"min_replicas": 3}, "max_replicas 1"),
        ({"min_replicas": 0}, "min_replicas 0"),
        ({"surge_percent": 101}, "0 to 100"),
        ({"max_running": 0}, "at least 1"),
    ],
)
def test_a_wrong_option_is_named(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        EngineConfig.from_args(args(**wrong))


def test_a_wrong_setting_is_named() -> None:
    with pytest.raises(ValueError, match="no setting 'bases'"):
        EngineConfig.from_args({**args(), "bases": 1})
    with pytest.raises(ValueError, match="base_model"):
        EngineConfig.from_args({"source": "/models/tiny"})


def deployment(**options: Any) -> Any:
    return serve.deployment(name="engine", **EngineConfig.from_args(args(**options)).deployment)(object)


def test_a_count_of_replicas_is_one_count() -> None:
    assert deployment(min_replicas=2, max_replicas=2).num_replicas == 2


def test_a_range_of_replicas_is_serves_to_choose_from() -> None:
    config = deployment(min_replicas=1, max_replicas=4, max_running=24)._deployment_config
    scaling = config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas, scaling.target_ongoing_requests) == (1, 4, 24)
    assert (
        deployment(max_replicas=2, target_requests=5)._deployment_config.autoscaling_config.target_ongoing_requests == 5
    )


def test_more_calls_reach_the_engine_than_it_takes_on() -> None:
    assert deployment(max_running=4, max_waiting=8).max_ongoing_requests > 4 + 8


def test_a_replica_may_finish_its_answers_and_is_followed_before_it_goes() -> None:
    config = deployment(drain_seconds=90.0)._deployment_config
    assert config.graceful_shutdown_timeout_s == 90.0
    assert config.max_surge_percent > 0
