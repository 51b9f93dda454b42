"""Losses and gradients of a fused pass are those of PEFT with each job alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fused_rig import CPU, Job, add, base_of, clear, fused_of, learn, load, parameters, peft_of, random_chunk
from tests.tiny_families import FAMILIES
from torch import Tensor
from torch.nn import functional

from trellis.bases import BaseFacts, BaseModelError
from trellis.lora import AdapterBank
from trellis_jobs.device import Device
from trellis_jobs.examples import Row
from trellis_jobs.shared.activations import peak_bytes
from trellis_jobs.shared.attention import SequenceGroups, rounded_length
from trellis_jobs.shared.chunk import Chunk
from trellis_jobs.shared.fused import FusedModel
from trellis_jobs.shared.invariance import depends_on_neighbours

JOBS = (Job(4, seed=1), Job(13, 5.0, ("q_proj", "v_proj", "down_proj", "qkv_proj", "fc2", "dense"), seed=2))


def plain_losses(model: Any, row: Row) -> Tensor:
    """Of the trained tokens, as transformers computes them."""
    logits_TV = model(row.ids_T[None], use_cache=False).logits[0, :-1]
    losses_T = functional.cross_entropy(logits_TV, row.ids_T[1:], reduction="none")
    return losses_T[row.weights_T[1:] > 0]


def assert_gradients(bank: AdapterBank, slot: int, model: Any) -> None:
    """The bank's, beside those of PEFT's parameters, relative to each tensor's largest."""
    by_name = dict(model.named_parameters())
    for group in bank.groups.values():
        for number, part in enumerate(group.group.parts):
            plain_RI = by_name.get(f"base_model.model.{part}.lora_A.default.weight")
            found = group.grad_pair(slot, number)
            if plain_RI is None:
                assert found is None
                continue
            assert found is not None
            plain_OR = by_name[f"base_model.model.{part}.lora_B.default.weight"]
            for ours, plain in zip(found, (plain_RI.grad, plain_OR.grad.T), strict=True):
                assert float((ours - plain).abs().max()) <= 2e-5 * float(plain.abs().max()), part


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_peft(family: str, tmp_path: Path) -> None:
    facts = base_of(family, tmp_path)
    fused = fused_of(facts)
    slots = [add(fused, job, facts) for job in JOBS]
    chunks = [
        random_chunk((9, 17), slots[0], 1),
        random_chunk((40,), slots[1], 2),
        random_chunk((5, 33, 6), slots[1], 3),
        random_chunk((12,), None, 4),
    ]
    found = fused.losses(chunks)
    fused.backward([each.weighted for each in found])
    for job, slot in zip(JOBS, slots, strict=True):
        model = peft_of(job, facts)
        for chunk, ours in zip(chunks, found, strict=True):
            if chunk.slot == slot:
                plain_N = torch.cat([plain_losses(model, row) for row in chunk.rows])
                torch.testing.assert_close(ours.losses_N, plain_N, atol=1e-5, rtol=1e-5)
                (plain_N * ours.weights_N).sum().backward()
        assert_gradients(fused.bank, slot, model)
    base = torch.cat([plain_losses(load(facts).eval(), row) for row in chunks[3].rows])
    torch.testing.assert_close(found[3].losses_N, base, atol=1e-5, rtol=1e-5)
    assert found[2].rows_N.unique().tolist() == [0, 1, 2]


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> BaseFacts:
    return base_of("llama", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def fused(facts: BaseFacts) -> FusedModel:
    return fused_of(facts)


@pytest.fixture
def slots(fused: FusedModel, facts: BaseFacts) -> Any:
    found = [add(fused, job, facts) for job in JOBS]
    yield found
    clear(fused.bank)
    for slot in found:
        fused.bank.remove(slot)


def test_fifty_steps_are_those_of_peft_with_adamw(fused: FusedModel, facts: BaseFacts, slots: list[int]) -> None:
    models = [peft_of(job, facts) for job in JOBS]
    theirs = [torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=3e-3) for m in models]
    pairs = [parameters(fused.bank, slot) for slot in slots]
    for weight, gradient in (pair for each in pairs for pair in each):
        weight.grad = gradient
    ours = [torch.optim.AdamW([weight for weight, _ in each], lr=3e-3) for each in pairs]
    last: list[tuple[Tensor, Tensor]] = []
    for step in range(50):
        chunks = [random_chunk((7 + number, 15), slot, step * 2 + number) for number, slot in enumerate(slots)]
        clear(fused.bank)
        found = fused.losses(chunks)
        fused.backward([each.weighted / 10 for each in found])
        last = []
        for chunk, each, model, mine, plain in zip(chunks, found, models, ours, theirs, strict=True):
            losses_N = torch.cat([plain_losses(model, row) for row in chunk.rows])
            plain.zero_grad()
            ((losses_N * each.weights_N).sum() / 10).backward()
            mine.step()
            plain.step()
            last.append((each.losses_N.detach(), losses_N.detach()))
    for mine_N, plain_N in last:
        torch.testing.assert_close(mine_N, plain_N, atol=2e-3, rtol=2e-3)


def test_held_out_losses_have_no_gradients_and_no_dropout(fused: FusedModel, slots: list[int]) -> None:
    chunk, dropped = random_chunk((20,), slots[0], 1), random_chunk((20,), slots[0], 1, dropout=0.5)
    learnt = learn(fused, [chunk])[0]
    assert not torch.equal(learn(fused, [dropped])[0], learnt)
    with torch.no_grad():
        found = fused.losses([dropped])[0]
    assert not found.losses_N.requires_grad
    torch.testing.assert_close(found.losses_N, learnt, atol=1e-5, rtol=1e-5)


def test_dropout_keeps_its_share_and_the_mean(fused: FusedModel, slots: list[int]) -> None:
    losses = torch.stack(
        [learn(fused, [Chunk(random_chunk((30,), None, 3).rows, slots[0], 0.2, seed)])[0].mean() for seed in range(30)]
    )
    plain = learn(fused, [random_chunk((30,), slots[0], 3)])[0].mean()
    assert float(losses.std()) > 0
    assert abs(float(losses.mean() - plain)) < 3 * float(losses.std())


def test_an_ordinary_call_has_the_adapters_that_are_asked_for(
    fused: FusedModel, facts: BaseFacts, slots: list[int]
) -> None:
    ids_BT = torch.randint(1, 90, (3, 8), generator=torch.Generator().manual_seed(2))
    models = [peft_of(JOBS[0], facts), load(facts), peft_of(JOBS[1], facts)]
    with torch.no_grad():
        with fused.call([slots[0], None, slots[1]]) as model:
            mixed = model(ids_BT).logits
        for row, plain in enumerate(models):
            torch.testing.assert_close(mixed[row], plain(ids_BT[row : row + 1]).logits[0], atol=1e-4, rtol=1e-4)
        with fused.call(slots[1]) as model:
            torch.testing.assert_close(model(ids_BT).logits, models[2](ids_BT).logits, atol=1e-4, rtol=1e-4)
            generate: Any = model.generate
            answer = generate(input_ids=ids_BT[:1], max_new_tokens=6, do_sample=False, pad_token_id=0)
        assert torch.equal(
            answer, models[2].generate(input_ids=ids_BT[:1], max_new_tokens=6, do_sample=False, pad_token_id=0)
        )
        with pytest.raises(ValueError, match="3 rows, but slots for 2"), fused.call(slots) as model:
            model(ids_BT)
        after = fused.losses([random_chunk((20,), slots[0], 1)])[0]
    assert after.losses_N.isfinite().all()


def test_a_sequence_beyond_the_context_is_refused(fused: FusedModel) -> None:
    with pytest.raises(ValueError, match="has 70 tokens; the base model takes 64"):
        fused.losses([random_chunk((71,), None, 1)])


def test_a_base_that_is_computed_wrongly_is_refused(facts: BaseFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here each token reads its whole sequence, what comes after it too."""
    monkeypatch.setattr(SequenceGroups, "mask", lambda _, length, *__: torch.zeros(length, length))
    with pytest.raises(BaseModelError, match="is not supported"):
        fused_of(facts)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_pass_takes_the_memory_that_is_predicted(facts: BaseFacts, checkpointing: bool) -> None:
    fused = fused_of(facts, checkpointing=checkpointing)
    slot = add(fused, JOBS[0], facts)
    assert fused.bank.values_V.grad is not None
    known = [*fused.model.parameters(), *fused.model.buffers(), fused.bank.values_V, fused.bank.values_V.grad]
    for lengths in ((20,) * 6, (60, 60), (60, 20, 20, 20)):
        chunk = random_chunk(lengths, slot, 1)
        peak = peak_bytes(lambda chunk=chunk: learn(fused, [chunk]), CPU.target, known)  # type: ignore[misc]
        predicted = fused.activation_bytes(chunk.tokens, max(lengths))
        assert 0.7 * peak <= predicted <= 1.6 * peak


def test_products_of_rows_are_looked_at(fused: FusedModel) -> None:
    weights = [parameter for parameter in fused.model.parameters() if parameter.dim() == 2]
    assert depends_on_neighbours(weights) is None


def test_lengths_are_rounded_by_themselves() -> None:
    assert [rounded_length(length) for length in (1, 16, 17, 128, 129, 1024, 1025)] == [
        16,
        16,
        32,
        128,
        192,
        1024,
        1280,
    ]


def test_bf16_bases_train_fp32_adapters(facts: BaseFacts) -> None:
    device = Device(torch.device("cpu"), torch.bfloat16)
    fused = fused_of(facts, device)
    slot = add(fused, JOBS[0], facts)
    chunk = random_chunk((20, 30), slot, 1)
    losses_N = learn(fused, [chunk])[0]
    plain_N = torch.cat([plain_losses(peft_of(JOBS[0], facts), row) for row in chunk.rows]).detach()
    assert float((losses_N - plain_N).norm() / plain_N.norm()) < 0.05
    assert all(weight.dtype is torch.float32 and gradient.any() for weight, gradient in parameters(fused.bank, slot))
    with torch.no_grad(), fused.call(slot) as model:
        assert model(chunk.rows[0].ids_T[None]).logits.isfinite().all()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_says_nearly_what_a_cpu_does(facts: BaseFacts, dtype: torch.dtype) -> None:
    there = fused_of(facts, Device(torch.device("cuda"), dtype))
    here = fused_of(facts)
    slots = [add(model, JOBS[1], facts) for model in (here, there)]
    ours, theirs = (
        learn(model, [random_chunk((20, 30), slot, 1)])[0].cpu()
        for model, slot in zip((here, there), slots, strict=True)
    )
    assert float((ours - theirs).norm() / ours.norm()) < (1e-4 if dtype is torch.float32 else 0.05)
    grads = [
        torch.cat([gradient.flatten().cpu() for _, gradient in parameters(model.bank, slot)])
        for model, slot in zip((here, there), slots, strict=True)
    ]
    assert float((grads[0] - grads[1]).norm() / grads[0].norm()) < (1e-3 if dtype is torch.float32 else 0.1)
