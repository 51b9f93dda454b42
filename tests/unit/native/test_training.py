"""T tokens, F features, Q query heads, H key-value heads, D head size, N rows of logits, V vocabulary."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb

from trellis.lora.parts import parts_of
from trellis.native import layers, training

Kernels = Callable[..., None]
Threads = Callable[[int], None]
SHAPES = [(1, 1), (3, 17), (2, 5, 64), (33, 576), (80, 1000), (0, 32)]


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def gradients(run: Callable[..., Tensor], *given: Tensor) -> tuple[Tensor, ...]:
    """The result, and the gradient of each tensor for the same random gradient of the result."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in given]
    result = run(*leaves)
    result.backward(draw(*result.shape))
    return (result.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None))


def assert_same(run: Callable[..., Tensor], plain: Callable[..., Tensor], threads: Threads, *given: Tensor) -> None:
    threads(1)
    got = gradients(run, *given)
    threads(2)
    for again, one in zip(gradients(run, *given), got, strict=True):
        assert torch.equal(again, one)
    for one, expected in zip(got, gradients(plain, *(tensor.double() for tensor in given)), strict=True):
        torch.testing.assert_close(one.double(), expected, rtol=3e-5, atol=3e-5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("kind", "offset"), [(LlamaRMSNorm, 0.0), (Gemma2RMSNorm, 1.0)])
def test_norm(kernels: Kernels, threads: Threads, shape: tuple[int, ...], kind: type, offset: float) -> None:
    kernels(training, layers)
    weight_F = draw(shape[-1])

    def plain(x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * (weight_F.double() + offset)

    assert_same(lambda x: training.rms_norm(x, weight_F, 1e-5, offset=offset), plain, threads, draw(*shape))
    norm = kind(shape[-1], 1e-5)
    norm.weight.data.copy_(weight_F)
    torch.testing.assert_close(
        training.rms_norm(draw(*shape), weight_F, 1e-5, offset=offset), norm(draw(*shape)).detach()
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_silu_of_parts(kernels: Kernels, threads: Threads, shape: tuple[int, ...]) -> None:
    kernels(training, layers)
    size = shape[-1]

    def ours(fused: Tensor) -> Tensor:
        return training.silu_mul(*parts_of(fused, (size, size)))

    def plain(fused: Tensor) -> Tensor:
        gate, up = fused.chunk(2, -1)
        return functional.silu(gate) * up

    assert_same(ours, plain, threads, draw(*shape[:-1], 2 * size) * 4)


def test_silu_far_out(kernels: Kernels) -> None:
    kernels(training, layers)
    gate = torch.tensor([[-1e30, -200.0, -90.0, 0.0, 90.0, 200.0, 1e30]])
    got = gradients(training.silu_mul, gate, torch.ones_like(gate))
    expected = gradients(lambda g, u: functional.silu(g) * u, gate.double(), torch.ones_like(gate).double())
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("tokens", "size", "turned"), [(1, 64, 64), (7, 80, 80), (100, 64, 64), (5, 40, 16)])
def test_rotary(kernels: Kernels, threads: Threads, tokens: int, size: int, turned: int) -> None:
    kernels(training)
    heads = (9, 3, 3)
    config = LlamaConfig(hidden_size=turned, num_attention_heads=1, max_position_embeddings=4096)
    cos, sin = LlamaRotaryEmbedding(config)(draw(1), 1000 + torch.arange(tokens)[None])

    def ours(fused: Tensor) -> Tensor:
        q, k, v = (part.unflatten(1, (-1, size)) for part in parts_of(fused, [count * size for count in heads]))
        return torch.cat(training.rotary(q, k, v, cos[0], sin[0]), 1)

    def plain(fused: Tensor) -> Tensor:
        q, k, v = fused.unflatten(1, (-1, size)).split(heads, 1)
        low = [part[..., :turned].transpose(0, 1)[None] for part in (q, k)]
        done = [part[0].transpose(0, 1) for part in apply_rotary_pos_emb(*low, cos.to(q.dtype), sin.to(q.dtype))]
        whole = [torch.cat((done[0], q[..., turned:]), -1), torch.cat((done[1], k[..., turned:]), -1), v]
        return torch.cat(whole, 1)

    assert_same(ours, plain, threads, draw(tokens, sum(heads) * size))


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (16, 17), (40, 4096), (3, 5000), (0, 8)])
def test_cross_entropy(kernels: Kernels, threads: Threads, rows: int, size: int) -> None:
    kernels(training)
    logits_NV = draw(rows, size) * 20
    targets_N = torch.randint(size, (rows,), generator=torch.Generator().manual_seed(1))
    if rows > 1:
        targets_N[1] = logits_NV[1].argmax()
    plain_NV = logits_NV.double().requires_grad_()
    losses_N = functional.cross_entropy(plain_NV, targets_N, reduction="none")
    losses_N.sum().backward()
    found = []
    for count in (1, 2):
        threads(count)
        own_NV = logits_NV.clone()
        found.append((*training.cross_entropy(own_NV, targets_N), own_NV))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)
    losses, first, gradient_NV = found[0]
    torch.testing.assert_close(losses.double(), losses_N.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient_NV.double(), plain_NV.grad, rtol=1e-5, atol=1e-6)
    assert torch.equal(first, logits_NV.argmax(-1) == targets_N)


def test_cross_entropy_of_numbers_that_are_none(kernels: Kernels) -> None:
    kernels(training)
    logits_NV = draw(4, 40)
    logits_NV[0, 3] = torch.nan
    logits_NV[1, 39] = torch.inf
    logits_NV[2, 5] = -torch.inf
    sound = logits_NV[3].clone()
    losses_N, _ = training.cross_entropy(logits_NV, torch.tensor([0, 1, 2, 3]))
    assert losses_N.isnan()[:2].all()
    assert losses_N[2:].isfinite().all()
    alone = sound[None].clone()
    torch.testing.assert_close(training.cross_entropy(alone, torch.tensor([3]))[0][0], losses_N[3], rtol=0, atol=0)
    assert torch.equal(alone[0], logits_NV[3])


def test_a_target_outside_of_the_vocabulary_is_refused(kernels: Kernels) -> None:
    kernels(training)
    for target in (-1, 8):
        with pytest.raises(ValueError, match="not one of 8"):
            training.cross_entropy(draw(1, 8), torch.tensor([target]))


def test_parts_that_lie_together_are_not_copied() -> None:
    y = draw(6, 10).requires_grad_()
    seen: list[Tensor] = []
    middle = y * 1
    middle.register_hook(seen.append)
    left, right = parts_of(middle, (4, 6))
    whole = draw(6, 12)
    torch.autograd.backward([left, right], [whole[:, :4], whole[:, 4:10]])
    assert seen[0].data_ptr() == whole.data_ptr()
    assert torch.equal(y.grad, whole[:, :10])  # type: ignore[arg-type]


@pytest.mark.parametrize("order", [(1, 0), (0, 0)])
def test_parts_that_lie_elsewhere_are_put_together(order: tuple[int, int]) -> None:
    y = draw(6, 8).requires_grad_()
    both = draw(6, 8).split(4, 1)
    given = [both[number] for number in order]
    torch.autograd.backward(list(parts_of(y, (4, 4))), given)
    assert torch.equal(y.grad, torch.cat(given, 1))  # type: ignore[arg-type]


def test_a_part_that_is_not_used_has_no_gradient() -> None:
    y = draw(6, 8).requires_grad_()
    parts_of(y, (4, 4))[1].sum().backward()
    assert torch.equal(y.grad, torch.cat((torch.zeros(6, 4), torch.ones(6, 4)), 1))  # type: ignore[arg-type]
