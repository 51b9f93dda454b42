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
from trellis_jobs.shared.optimizer import lora_parameters
from trellis_jobs.shared.slots import Slots
from trellis_jobs.shared.work import Piece

RANK, FEW, MANY = 16, 2, 10
BYTES_A_NUMBER = 18 * 1.05


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


def trained(facts: BaseFacts, jobs: int) -> tuple[FusedModel, Slots, list[int]]:
    """A trainer with so many jobs, and rows for no more, each of which has done three steps."""
    fused = FusedModel(load(facts), facts, CPU, rank_rows=jobs * RANK, max_slots=MANY)
    engine = OneProcess(fused)
    slots, spec = Slots(fused.bank, engine), TrainSpec("", "", "", "", "", "", 64, lora=Lora(RANK, 2.0 * RANK))
    own = [slots.add(weights_of(Job(RANK, seed=number), facts), spec) for number in range(jobs)]
    for step in range(3):
        chunks = [random_chunk((20, 9), slot, seed=step) for slot, _ in own]
        engine.compute([Piece(chunk, lambda found: (found.weighted, None)) for chunk in chunks], gradient=True)
        for _, optimizer in own:
            optimizer.clip()
            optimizer.step(step, 3)
    return fused, slots, [slot for slot, _ in own]


def test_a_job_takes_18_bytes_a_trained_number_at_the_most(facts: BaseFacts) -> None:
    before = alive()
    few = trained(facts, FEW)
    with_few = alive() - before
    numbers = lora_parameters(few[0].bank, few[2][0], RANK)
    del few
    assert alive() - before < with_few / 2, "a trainer that is gone leaves its memory"
    before = alive()
    many = trained(facts, MANY)
    each = (alive() - before - with_few) / (MANY - FEW)
    assert len(many[2]) == MANY
    assert numbers == RANK * sum(outs + ins for outs, ins in facts.linear_shapes.values())
    assert 16 <= each / numbers <= BYTES_A_NUMBER
