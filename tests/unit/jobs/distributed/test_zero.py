"""The arithmetic that lays a model over workers."""

from dataclasses import replace

import pytest

from trellis.spec import Distributed
from trellis_jobs.distributed.zero import Fleet, Layout, ModelSize, memory_of, plan

GIB = 1 << 30
EIGHT_B = ModelSize(8_000_000_000, 8_000_000_000, 32, 4096, 2, 2.0)
ADAPTER = replace(EIGHT_B, trained=40_000_000)


def fleet(workers: int, device: float, host: float = 2000) -> Fleet:
    return Fleet(workers, int(device * GIB), int(host * GIB))


def chosen(size: ModelSize, fleet: Fleet, wanted: Distributed | None = None, context: int = 2048) -> str:
    found = plan(size, fleet, wanted or Distributed(), context, quantized=False)
    assert found.fits
    return str(found.layout)


def test_each_stage_divides_what_it_says() -> None:
    layouts = [Layout(stage, "none", checkpointing=False) for stage in (1, 2, 3)]
    one, two, three = (memory_of(EIGHT_B, layout, 4) for layout in layouts)
    assert one.weights == two.weights == 16_000_000_000
    assert one.gradients == 16_000_000_000
    assert two.gradients == three.gradients == 4_000_000_000
    assert one.optimizer == two.optimizer == three.optimizer == 24_000_000_000
    assert three.weights == 4_000_000_000 + 16_000_000_000 // 32  # its share, and one layer gathered


def test_offloading_moves_state_to_the_host_and_loses_none() -> None:
    kept = memory_of(EIGHT_B, Layout(3, "none", checkpointing=True), 4)
    moved = memory_of(EIGHT_B, Layout(3, "all", checkpointing=True), 4)
    assert moved.optimizer == moved.gradients == 0
    assert moved.host + moved.weights == kept.state
    assert moved.weights == 16_000_000_000 // 32


def test_checkpointing_keeps_a_layers_input_only() -> None:
    whole = memory_of(EIGHT_B, Layout(1, "none", checkpointing=False), 1)
    again = memory_of(EIGHT_B, Layout(1, "none", checkpointing=True), 1)
    assert whole.token == 34 * 4096 * 32
    assert again.token == 2 * 4096 * 32 + 34 * 4096


@pytest.mark.parametrize(
    ("size", "there", "layout"),
    [
        (ADAPTER, fleet(2, 80), "ZeRO-1"),
        (ADAPTER, fleet(2, 22), "ZeRO-2, activations computed again"),
        (ADAPTER, fleet(4, 16), "ZeRO-3"),
        (EIGHT_B, fleet(1, 192), "ZeRO-1"),
        (EIGHT_B, fleet(8, 80), "ZeRO-1"),
        (EIGHT_B, fleet(8, 48), "ZeRO-2"),
        (EIGHT_B, fleet(8, 26), "ZeRO-3"),
        (EIGHT_B, fleet(8, 18), "ZeRO-3, activations computed again"),
        (EIGHT_B, fleet(1, 32), "ZeRO-2, the optimizer on the host, activations computed again"),
        (EIGHT_B, fleet(1, 8), "ZeRO-3, all state on the host, activations computed again"),
    ],
)
def test_the_fastest_layout_that_fits_is_chosen(size: ModelSize, there: Fleet, layout: str) -> None:
    assert chosen(size, there) == layout


def test_longer_lines_are_computed_again_before_anything_is_sharded_more() -> None:
    assert chosen(ADAPTER, fleet(2, 30), context=32768) == "ZeRO-2, activations computed again"


def test_what_is_given_is_heeded() -> None:
    assert chosen(EIGHT_B, fleet(8, 80), Distributed(zero_stage=3)) == "ZeRO-3"
    assert chosen(ADAPTER, fleet(2, 80), Distributed(gradient_checkpointing=True)).endswith(
        "activations computed again"
    )
    assert "on the host" in chosen(ADAPTER, fleet(2, 80), Distributed(offload="optimizer"))
    assert chosen(ADAPTER, fleet(2, 80), Distributed(offload="all")).startswith("ZeRO-3, all state on the host")


def test_what_no_stage_can_do_is_never_chosen() -> None:
    small = fleet(1, 8)
    found = plan(EIGHT_B, small, Distributed(zero_stage=0), 2048, quantized=False)
    assert (found.layout.stage, found.layout.offload, found.fits) == (0, "none", False)
    for stage in (1, 2):
        assert plan(EIGHT_B, small, Distributed(zero_stage=stage), 2048, quantized=False).layout.offload != "all"


def test_a_given_deepspeed_config_is_reckoned_with() -> None:
    config = '{"zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}}}'
    assert chosen(ADAPTER, fleet(2, 80), Distributed(config_json=config).asked).startswith(
        "ZeRO-3, the optimizer on the host"
    )


def test_what_is_too_large_gets_the_smallest_layout_and_a_warning() -> None:
    found = plan(EIGHT_B, fleet(1, 1, host=4), Distributed(), 2048, quantized=False)
    assert not found.fits
    assert found.layout == Layout(3, "all", checkpointing=True)
    assert found.pass_tokens == 2048
    assert "more workers" in found.reason
    assert "8,000,000,000 parameters" in found.reason


def test_a_quantized_base_is_never_sharded() -> None:
    quantized = replace(ADAPTER, stored_bytes=0.6)
    found = plan(quantized, fleet(4, 1.5), Distributed(), 2048, quantized=True)
    assert found.layout.stage < 3


def test_a_pass_has_the_tokens_that_fit() -> None:
    found = plan(ADAPTER, fleet(1, 40), Distributed(zero_stage=1, gradient_checkpointing=False), 2048, quantized=False)
    room = 40 * GIB - GIB
    assert found.pass_tokens == (room - found.memory.state) // found.memory.token
