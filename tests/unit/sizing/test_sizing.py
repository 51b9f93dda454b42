"""The arithmetic of sizes, against published figures and against what engine and trainer themselves reckon."""

import json
import math
from pathlib import Path

import pytest
import torch

import trellis
from trellis.bases import read_base
from trellis.engine.kv_cache import LayerShape, bytes_per_block
from trellis.engine.runner import _CUDA_KV_SHARE
from trellis.lora import find_groups
from trellis.lora.layout import Layout
from trellis.sizing import (
    ACCELERATORS,
    BASES,
    EngineSize,
    JobStorage,
    Question,
    ShapeError,
    TrainerSize,
    answer,
    cost_of_a_million,
    serving,
    shape_of_config,
    storage,
    training,
)
from trellis.spec import Lora
from trellis_jobs.shared import memory, tenant

TINY = Path(trellis.__file__).parent / "base_models" / "trellis-tiny"
LLAMA_8B = BASES["llama-3.1-8b"]
H200 = ACCELERATORS["h200"]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("llama-3.2-1b", 1_235_814_400), ("llama-3.1-8b", 8_030_261_248), ("llama-3.1-70b", 70_553_706_496)],
)
def test_parameters_are_those_of_the_model_cards(name: str, parameters: int) -> None:
    assert BASES[name].parameters == parameters


def test_a_real_base_s_shape_is_that_of_its_weights() -> None:
    facts = read_base(str(TINY))
    found = shape_of_config(json.loads((TINY / "config.json").read_bytes()))
    assert found.parameters == facts.parameter_count
    assert found.linear_values == sum(sum(pair) for pair in facts.linear_shapes.values())


def test_what_adapters_cost_a_step_of_an_8b_model_on_an_h200() -> None:
    """4 % at 8 different adapters, 14 % at 32, 33 % at 128: the physical limit."""
    engine = EngineSize(LLAMA_8B, H200, rank=16, adapters=128, context=1024)
    overheads = [round(100 * engine.adapter_overhead(many, many)) for many in (8, 32, 128)]
    assert overheads == [4, 14, 33]
    assert engine.adapter_overhead(32, 0) == 0


def test_a_resident_job_takes_755_megabytes() -> None:
    assert round(TrainerSize(LLAMA_8B, H200, rank=16).job_bytes / 1e6) == 755


def test_the_kv_cache_is_reckoned_as_the_engine_does() -> None:
    layers = [LayerShape(LLAMA_8B.kv_heads, LLAMA_8B.head_size, LLAMA_8B.head_size)] * LLAMA_8B.layers
    engine = EngineSize(LLAMA_8B, H200, 16, 64, 1024)
    assert engine.kv_bytes_per_token * 16 == bytes_per_block(layers, 16, torch.bfloat16)
    assert serving.KV_SHARE == _CUDA_KV_SHARE


def test_the_trainer_s_bank_is_reckoned_as_the_trainer_does() -> None:
    class Group:
        row_values = LLAMA_8B.linear_values

    trainer = TrainerSize(LLAMA_8B, H200, 16)
    rows = memory.bank_rows([Group()], int(trainer.free_bytes), max_jobs=1000)  # type: ignore[list-item]
    assert trainer.rank_rows == rows
    assert (training.BANK_SHARE, training.STATE_BYTES) == (memory._BANK_SHARE, memory._BYTES_OF_A_NUMBER)


@pytest.mark.parametrize("rank", [1, 4, 16])
@pytest.mark.parametrize("targets", [(), ("q_proj", "v_proj"), ("q_proj",)])
def test_an_adapter_takes_its_own_numbers_and_no_more(targets: tuple[str, ...], rank: int) -> None:
    """By the sizes of an 8B Llama, whose heads share keys: in the bank, in what a trainer sets aside, and in sizes."""
    groups = find_groups({f"layer.{name}": (outs, ins) for name, (ins, outs) in LLAMA_8B.linears.items()})
    own = sum(rank * sum(LLAMA_8B.linears[name]) for name in targets or LLAMA_8B.linears)
    ranks = {f"layer.{name}": rank for name in targets or LLAMA_8B.linears}
    assert Layout.of(ranks, groups).values == memory.values_of(Lora(rank, target_modules=targets), groups) == own
    trainer = TrainerSize(LLAMA_8B, H200, rank, targets)
    assert trainer.trained == LLAMA_8B.layers * own
    resident = 2 * 4 + 2 * 4  # weight and gradient in the bank, two moments beside it
    assert resident * LLAMA_8B.layers * own <= trainer.job_bytes == 18 * trainer.trained


@pytest.mark.parametrize("rank", [1, 4, 8, 9, 16, 64])
@pytest.mark.parametrize("targets", [(), ("q_proj", "v_proj"), ("q_proj",)])
def test_a_trainer_gets_as_many_jobs_as_are_reckoned(targets: tuple[str, ...], rank: int) -> None:
    """The server gives jobs by rank rows, the trainer takes them by their numbers, and the one hears of the other."""
    trainer = TrainerSize(LLAMA_8B, H200, rank, targets)
    groups = find_groups(
        {f"{layer}.{name}": (outs, ins) for layer in range(32) for name, (ins, outs) in LLAMA_8B.linears.items()}
    )
    for rows in (trainer.rank_rows, trainer.rows_of_tenants):
        room = memory.Room(max_jobs=100_000, rank_rows=rows, line_tokens=1, groups=groups)
        room.take("the first", Lora(rank, target_modules=targets), 1)
        given = 1
        while more := room.to_proto().rank_rows * LLAMA_8B.linear_values // trainer.trained:
            given += more
            room._values["the others"] = (given - 1) * trainer.trained
        assert given == trainer.tenants
        wide = -(-trainer.trained // LLAMA_8B.linear_values)
        assert room.take("one more", Lora(wide), 1), "the server is told of less than a row on all linears"


def test_half_the_rank_is_twice_the_tenants_and_q_and_v_alone_are_six_times() -> None:
    sizes = [TrainerSize(LLAMA_8B, H200, rank).tenants for rank in (4, 8, 16, 32)]
    assert sizes == [295, 147, 73, 36]
    assert TrainerSize(LLAMA_8B, H200, 16, ("q_proj", "v_proj")).tenants == 454
    assert EngineSize(LLAMA_8B, H200, 16, 128, 1024, ("q_proj", "v_proj")).bank_rows == 333


def test_long_jobs_keep_no_more_metrics_than_the_trainer_reports() -> None:
    assert storage.MAX_POINTS == tenant._MAX_POINTS
    short, long, longer = (JobStorage(LLAMA_8B, 16, steps, 0).database_bytes for steps in (10, 2000, 50_000))
    assert short < long == longer


def test_a_job_s_objects() -> None:
    job = JobStorage(LLAMA_8B, 16, steps=100, dataset_bytes=10)
    assert job.store_bytes == 10 + (4 + 3 * 12) * 41_943_040


def test_a_million_tokens() -> None:
    assert math.isclose(cost_of_a_million(3.6, 1000), 1.0)
    with pytest.raises(ValueError, match="more than 0"):
        cost_of_a_million(1, 0)


def test_what_does_not_fit_is_said_and_costs_nothing() -> None:
    found = answer(Question(BASES["llama-3.1-70b"], ACCELERATORS["h100-80gb"], hour_price=3))
    assert str(found["engine"]["fits"]).startswith("No: the base alone takes more")
    assert str(found["trainer"]["fits"]).startswith("No: the base alone takes more")
    assert found["settings"] == {}
    assert "cost_of_a_million_tokens" not in found


def test_answers_that_do_not_fit_are_not_priced() -> None:
    found = answer(Question(LLAMA_8B, ACCELERATORS["l4"], adapters=8, context=8192, hour_price=1))
    assert "answers at once only" in str(found["engine"]["fits"])
    assert "cost_of_a_million_tokens" not in found


@pytest.mark.parametrize(
    ("config", "message"),
    [({"num_local_experts": 8}, "mixture of experts"), ({"hidden_size": "4096"}, "'num_attention_heads'")],
)
def test_a_config_that_this_is_not_for(config: dict[str, object], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        shape_of_config(config)
