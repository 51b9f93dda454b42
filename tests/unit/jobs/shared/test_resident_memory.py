"""What a job takes of the trainer's memory as long as it is there, counted over all tensors that are alive."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from tests.fused_rig import CPU, Job, base_of, load, random_chunk, weights_of
from torch import Tensor

from trellis.bases import BaseFacts
from trellis.spec import Lora, TrainSpec
from trellis_jobs.shared.engine import OneProcess
from trellis_jobs.shared.fused import FusedModel
from trellis_jobs.shared.optimizer import SlotOptimizer, lora_parameters
from trellis_jobs.shared.slots import Slots
from trellis_jobs.shared.work import Piece

FEW, MANY = 2, 10
BYTES_A_NUMBER = 18 * 1.05
Places = list[tuple[int, SlotOptimizer]]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> BaseFacts:
    return base_of("llama", tmp_path_factory.mktemp("base"))


def alive() -> int:
    """Bytes of the storages of all tensors, each storage once; gradients too, which only their tensors hold."""
    gc.collect()
    found = [one for one in gc.get_objects() if issubclass(type(one), Tensor)]
    storages = {storage.data_ptr(): storage.nbytes() for storage in _storages(found)}
    return sum(storages.values())


def _storages(tensors: list[Tensor]) -> Iterator[Any]:
    for tensor in tensors:
        yield tensor.untyped_storage()
        if tensor.is_leaf and tensor.grad is not None:
            yield tensor.grad.untyped_storage()


def trained(facts: BaseFacts, jobs: int, rank: int, targets: tuple[str, ...] | None) -> tuple[FusedModel, Places, int]:
    """A trainer with so many jobs, each of which has done three steps, and room for no more; and what a job trains."""
    sizes = [outs + ins for path, (outs, ins) in facts.linear_shapes.items() if _is_one(path, targets)]
    rows = -(-jobs * rank * sum(sizes) // sum(map(sum, facts.linear_shapes.values())))
    fused = FusedModel(load(facts), facts, CPU, rank_rows=rows, max_slots=MANY)
    engine = OneProcess(fused)
    slots, spec = Slots(fused.bank, engine), TrainSpec("", "", "", "", "", "", 64, lora=Lora(rank, 2.0 * rank))
    own = [slots.add(weights_of(Job(rank, targets=targets, seed=number), facts), spec) for number in range(jobs)]
    for step in range(3):
        chunks = [random_chunk((20, 9), slot, seed=step) for slot, _ in own]
        engine.compute([Piece(chunk, lambda found: (found.weighted, None)) for chunk in chunks], gradient=True)
        for _, optimizer in own:
            assert optimizer.clip() > 0
            optimizer.step(step, 3)
    assert fused.bank.values_free < fused.bank.row_values
    assert {lora_parameters(fused.bank, slot) for slot, _ in own} == {rank * sum(sizes)}
    return fused, own, rank * sum(sizes)


def _is_one(path: str, targets: tuple[str, ...] | None) -> bool:
    return targets is None or path.rsplit(".", 1)[-1] in targets


def of_nobody(fused: FusedModel) -> int:
    """Bytes of weights and gradients in the bank that no job has."""
    return 2 * 4 * fused.bank.values_free


@pytest.mark.parametrize("rank", [4, 16])
@pytest.mark.parametrize("targets", [None, ("q_proj", "v_proj"), ("q_proj",)], ids=["all", "q and v", "q"])
def test_a_job_takes_18_bytes_a_trained_number_at_the_most(
    facts: BaseFacts, rank: int, targets: tuple[str, ...] | None
) -> None:
    before = alive()
    few = trained(facts, FEW, rank, targets)
    with_few = alive() - before
    few_jobs = with_few - of_nobody(few[0])
    del few
    assert alive() - before < with_few / 2, "a trainer that is gone leaves its memory"
    before = alive()
    fused, own, numbers = trained(facts, MANY, rank, targets)
    each = (alive() - before - of_nobody(fused) - few_jobs) / (MANY - FEW)
    assert len(own) == MANY
    assert 16 <= each / numbers <= BYTES_A_NUMBER
