"""What PyTorch computes of a job's step: no product where our kernels serve, and nothing that goes by where numbers lie."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.fused_rig import CPU, Job, add, load, random_chunk
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import trellis
from trellis.bases import read_base
from trellis.native.linear import serves
from trellis.spec import Lora, TrainSpec
from trellis_jobs.shared.fused import FusedModel
from trellis_jobs.shared.optimizer import SlotOptimizer

BASE = Path(trellis.__file__).parent / "base_models" / "trellis-tiny"
PRODUCTS = ("mm", "matmul", "linear", "conv", "dot", "attention", "einsum", "softmax", "layer_norm")
OFFSETS = (1, 2, 3, 4, 5, 8, 15, 16)


@pytest.mark.skipif(not serves(torch.zeros(16, 16)), reason="products in float32 are MKL's on this CPU")
def test_a_step_takes_no_product_from_pytorch() -> None:
    facts = read_base(str(BASE))
    fused = FusedModel(load(facts), facts, CPU, rank_rows=16, max_slots=2)
    slot = add(fused, Job(4), facts)
    optimizer = SlotOptimizer(fused.bank, slot, TrainSpec("", "", "", "", "", "", context_length=64, lora=Lora(4)))
    with profile(activities=[ProfilerActivity.CPU]) as told:
        (found,) = fused.losses([random_chunk((5, 30, 100), slot, seed=1)])
        fused.backward([found.weighted])
        optimizer.clip()
        optimizer.step(0, 10)
    names = {event.key for event in told.key_averages()}
    assert {"aten::_fused_adamw_", "aten::linalg_vector_norm", "aten::cos", "aten::sum"} <= names
    assert not [name for name in names if name.startswith("aten::") and any(each in name for each in PRODUCTS)]


def _adamw(weight: Tensor, grad: Tensor, mean: Tensor, square: Tensor) -> Tensor:
    lists = ([weight], [grad], [mean], [square.abs()], [], [torch.tensor(3.0)])
    settings = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.01, "eps": 1e-8}
    torch._fused_adamw_(*lists, **settings, amsgrad=False, maximize=False)
    return torch.cat([weight, mean])


OPERATIONS: dict[str, tuple[int, Callable[..., Tensor]]] = {
    "sum": (1, torch.sum),
    "norm": (1, torch.linalg.vector_norm),
    "norms": (1, lambda x: torch.stack(torch._foreach_norm([x, x[:3]]))),
    "cosine": (1, lambda x: torch.cos(100 * x)),
    "sine": (1, lambda x: torch.sin(100 * x)),
    "adamw": (4, _adamw),
}


@pytest.mark.parametrize("numbers", [3, 17, 100, 1024, 4 * 704])
@pytest.mark.parametrize("name", OPERATIONS)
def test_nothing_goes_by_where_its_numbers_lie(name: str, numbers: int) -> None:
    operands, compute = OPERATIONS[name]
    generator = torch.Generator().manual_seed(numbers)
    given = [torch.randn(numbers, generator=generator) for _ in range(operands)]
    expected = compute(*(x.clone() for x in given))
    for offset in OFFSETS:
        moved = [torch.zeros(numbers + offset)[offset:].copy_(x) for x in given]
        assert torch.equal(compute(*moved), expected), offset
