"""What does not fit is refused before any memory is touched; what the kernel computes is tested with whole models.

T tokens, F features, d numbers of a head that are turned.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.flat_adapters import group_bank
from torch import Tensor

from trellis.native.attention import CacheOperands, StepTable
from trellis.native.decoder import AdaptedLinear, DecoderOperands, DecoderStep, Norm, Reading
from trellis.native.linear import PackedLinear, takes
from trellis.native.lora import SegmentTable

HEADS, KV_HEADS, SIZE, WIDE = 4, 2, 8, 48
FEATURES = HEADS * SIZE
BLOCKS, BLOCK_TOKENS = 4, 16
SLOTS = 2

pytestmark = pytest.mark.skipif(not takes(torch.zeros(16, 16)), reason="this CPU's products are other libraries'")


def linear(sizes: tuple[int, int], parts: tuple[int, ...], dtype: torch.dtype = torch.float32) -> AdaptedLinear:
    inputs, outputs = sizes
    bank = group_bank(inputs, parts, [[8] * len(parts)] * SLOTS, dtype)
    return AdaptedLinear(PackedLinear(torch.randn(outputs, inputs), None), bank.operands)


def norm(size: int = FEATURES, dtype: torch.dtype = torch.float32) -> Norm:
    return Norm(torch.ones(size, dtype=dtype), 1e-5, 0.0)


def parts(**changes: Any) -> dict[str, Any]:
    kv = KV_HEADS * SIZE
    shapes = {
        "qkv": ((FEATURES, FEATURES + 2 * kv), (FEATURES, kv, kv)),
        "output": ((FEATURES, FEATURES), (FEATURES,)),
        "gate_up": ((FEATURES, 2 * WIDE), (WIDE, WIDE)),
        "down": ((WIDE, FEATURES), (FEATURES,)),
    }
    made = {name: linear(*shape) for name, shape in shapes.items()}
    return {**made, "cache": cache(), "before": norm(), "between": norm(), "reading": Reading(1.0), "rotated": SIZE} | {
        **changes
    }


def cache(size: int = SIZE, value_size: int = SIZE, heads: int = KV_HEADS, blocks: int = BLOCKS) -> CacheOperands:
    return CacheOperands(
        torch.zeros(blocks, heads, BLOCK_TOKENS, size), torch.zeros(blocks, heads, BLOCK_TOKENS, value_size)
    )


def layer(**changes: Any) -> DecoderOperands:
    p = parts(**changes)
    linears = (p["qkv"], p["output"], p["gate_up"], p["down"])
    return DecoderOperands((p["before"], p["between"]), linears, p["cache"], p["reading"], p["rotated"])


def table(tokens: int = 3, block: int = 0, block_tokens: int = BLOCK_TOKENS) -> StepTable:
    numbers = [torch.tensor(values, dtype=torch.int32) for values in ([0, tokens], [0], [[block]])]
    rows = torch.arange(tokens) + block * block_tokens
    return StepTable(numbers[0], numbers[1], numbers[2], rows, block_tokens)


def segments(slot: int = 0, tokens: int = 3) -> SegmentTable:
    return SegmentTable(torch.tensor([[0, tokens, slot]], dtype=torch.int32))


def step(
    of: StepTable | None = None, adapters: SegmentTable | None = None, turned: int = SIZE, **changes: Any
) -> DecoderStep:
    of = of or table()
    cos_Td = torch.ones(changes.get("tokens", of.tokens), turned, dtype=changes.get("dtype", torch.float32))
    return DecoderStep(of, adapters, cos_Td, torch.zeros_like(cos_Td))


def test_what_fits_is_computed() -> None:
    y_TF = layer()(torch.randn(3, FEATURES), step(adapters=segments()))
    assert y_TF.shape == (3, FEATURES)
    assert y_TF.isfinite().all()


WRONG_PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "no keys": lambda: {"qkv": linear((FEATURES, FEATURES), (FEATURES,))},
    "other outputs": lambda: {"output": linear((FEATURES, FEATURES + 1), (FEATURES + 1,))},
    "half a gate": lambda: {"gate_up": linear((FEATURES, 2 * WIDE - 1), (WIDE, WIDE - 1))},
    "narrow down": lambda: {"down": linear((WIDE, FEATURES - 1), (FEATURES - 1,))},
    "others' adapters": lambda: {
        "down": replace(linear((WIDE, FEATURES), (FEATURES,)), adapters=parts()["output"].adapters)
    },
    "adapters in bf16": lambda: {"down": linear((WIDE, FEATURES), (FEATURES,), torch.bfloat16)},
    "short norm": lambda: {"before": norm(FEATURES - 1)},
    "norm in bf16": lambda: {"between": norm(dtype=torch.bfloat16)},
    "norm in pieces": lambda: {"between": Norm(torch.ones(2 * FEATURES)[::2], 1e-5, 0.0)},
    "norm of all heads": lambda: {"reading": Reading(1.0, query_norm=norm(FEATURES))},
    "short norm of heads": lambda: {"reading": Reading(1.0, key_norm=norm(SIZE - 1))},
    "three key heads": lambda: {"cache": cache(heads=3)},
    "larger heads": lambda: {"cache": cache(size=2 * SIZE, value_size=2 * SIZE)},
    "other values": lambda: {"cache": cache(value_size=SIZE + 2)},
    "more is turned": lambda: {"rotated": SIZE + 2},
    "odd is turned": lambda: {"rotated": 3},
}


@pytest.mark.parametrize("wrong", WRONG_PARTS)
def test_parts_that_are_not_one_layers_are_refused(wrong: str) -> None:
    given = WRONG_PARTS[wrong]()
    with pytest.raises(ValueError, match=r"\w"):
        layer(**given)


WRONG_STEPS: dict[str, tuple[Tensor, Callable[[], DecoderStep]]] = {
    "fewer rows": (torch.zeros(2, FEATURES), step),
    "narrow rows": (torch.zeros(3, FEATURES - 1), step),
    "rows in bf16": (torch.zeros(3, FEATURES, dtype=torch.bfloat16), step),
    "rows in pieces": (torch.zeros(3, 2 * FEATURES)[:, ::2], step),
    "a block beyond": (torch.zeros(3, FEATURES), lambda: step(table(block=BLOCKS))),
    "longer blocks": (torch.zeros(3, FEATURES), lambda: step(table(block_tokens=2 * BLOCK_TOKENS))),
    "less is turned": (torch.zeros(3, FEATURES), lambda: step(turned=SIZE - 2)),
    "turned in bf16": (torch.zeros(3, FEATURES), lambda: step(dtype=torch.bfloat16)),
    "a slot beyond": (torch.zeros(3, FEATURES), lambda: step(adapters=segments(slot=SLOTS))),
}


@pytest.mark.parametrize("wrong", WRONG_STEPS)
def test_rows_and_steps_of_another_layer_are_refused(wrong: str) -> None:
    x_TF, make = WRONG_STEPS[wrong]
    of, given = layer(), make()
    with pytest.raises(ValueError, match=r"\w"):
        of(x_TF, given)


def test_tables_of_different_tokens_are_no_step() -> None:
    for wrong in ({"tokens": 2}, {"adapters": segments(tokens=4)}, {"turned": 3}):
        with pytest.raises(ValueError, match=r"\w"):
            step(**wrong)  # type: ignore[arg-type]


def test_a_layer_keeps_what_it_has_the_addresses_of() -> None:
    x_TF, first = torch.randn(3, FEATURES), step()
    of = layer()
    expected = of(x_TF, first)
    filler = [torch.full((FEATURES, 2 * WIDE), float("nan")) for _ in range(200)]
    assert torch.equal(of(x_TF, first), expected)
    assert len(filler) == 200
