"""The shared step and plain PEFT's, from the same weights on the same tokens."""

import pytest
from tests.bench.serving_rig.shapes import Shape, write_base
from tests.bench.training_rig.bare_trainer import BareTrainer

SHAPE = Shape("small", 32, 2, 2, 1, 64, 400)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> BareTrainer:
    return BareTrainer.load(write_base(SHAPE, tmp_path_factory.mktemp("base")))


@pytest.mark.parametrize(("tenants", "tokens", "mix"), [(5, 16, "mixed"), (2, 100, "same"), (1, 7, "same")])
def test_both_sides_learn_the_same(trainer: BareTrainer, tenants: int, tokens: int, mix: str) -> None:
    trainer.settle(tenants, tokens, mix)  # type: ignore[arg-type]
    first = [trainer.step(side, 1)["losses"] for side in ("fused", "sequential")]
    later = [trainer.step(side, 3)["losses"] for side in ("fused", "sequential")]
    assert first[0] == pytest.approx(first[1], rel=1e-5)
    assert later[0] == pytest.approx(later[1], rel=1e-3)
    assert all(after < before for before, after in zip(first[0], later[0], strict=True))


def test_each_plain_tenant_has_an_adapter_of_its_own_on_the_same_base(trainer: BareTrainer) -> None:
    trainer.settle(2, 8, "mixed")
    one, other = (step.model.get_base_model() for step in trainer.plain.steps)
    assert one.model.embed_tokens.weight is other.model.embed_tokens.weight is trainer.base.model.embed_tokens.weight
    before = trainer.plain.steps[1].weights()
    trainer.plain.steps[0].step(trainer.batches[0])
    after = trainer.plain.steps[1].weights()
    assert all(after[path][1].equal(before[path][1]) for path in before)
    assert any(b_OR.any() for _, b_OR in trainer.plain.steps[0].weights().values())


def test_a_job_takes_little_more_than_adam_needs(trainer: BareTrainer) -> None:
    found = trainer.bytes(3)["bytes"]
    assert len(found) == 3
    assert all(16.0 <= value <= 18.9 for value in found)
