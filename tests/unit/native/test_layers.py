"""T tokens, F features, D head size."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding, apply_rotary_pos_emb

from trellis.native import layers
from trellis.native.layers import gelu_mul, rms_norm, rotary, silu_mul

Kernels = Callable[..., None]
Threads = Callable[[int], None]
DTYPES = (torch.float32, torch.bfloat16)
SHAPES = [(1, 1), (3, 17), (2, 5, 64), (33, 576), (80, 1000), (0, 32)]


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def assert_close(got: Tensor, expected: Tensor) -> None:
    tolerance = 2e-6 if got.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got, expected.to(got.dtype), rtol=tolerance, atol=tolerance)


def assert_same_with_threads(threads: Threads, run: Callable[[], Tensor]) -> Tensor:
    threads(1)
    got = run()
    threads(2)
    assert torch.equal(run(), got)
    return got


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("kind", "offset"), [(LlamaRMSNorm, 0.0), (Gemma2RMSNorm, 1.0)])
def test_norm(
    kernels: Kernels, threads: Threads, dtype: torch.dtype, shape: tuple[int, ...], kind: type, offset: float
) -> None:
    kernels(layers)
    norm = kind(shape[-1], 1e-5).to(dtype)
    norm.weight.data.copy_(draw(shape[-1]))
    x = draw(*shape, dtype=dtype)
    got = assert_same_with_threads(threads, lambda: rms_norm(x, norm.weight.data, 1e-5, offset=offset))
    assert_close(got, norm(x).detach())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_silu_of_slices(kernels: Kernels, threads: Threads, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    kernels(layers)
    gate, up = (draw(*shape[:-1], 2 * shape[-1], dtype=dtype) * 4).chunk(2, -1)
    got = assert_same_with_threads(threads, lambda: silu_mul(gate, up))
    assert_close(got, torch.nn.functional.silu(gate.double()) * up.double())


@pytest.mark.parametrize("shape", SHAPES)
def test_gelu_of_slices(kernels: Kernels, threads: Threads, shape: tuple[int, ...]) -> None:
    kernels(layers)
    gate, up = (draw(*shape[:-1], 2 * shape[-1]) * 4).chunk(2, -1)
    got = assert_same_with_threads(threads, lambda: gelu_mul(gate, up))
    assert_close(got, torch.nn.functional.gelu(gate.double(), approximate="tanh") * up.double())


def test_gelu_far_out(kernels: Kernels) -> None:
    kernels(layers)
    gate = torch.tensor([[-1e30, -200.0, -9.0, 0.0, 9.0, 200.0, 1e30]])
    assert_close(gelu_mul(gate, torch.ones_like(gate)), torch.tensor([[0.0, 0.0, 0.0, 0.0, 9.0, 200.0, 1e30]]))
    assert gelu_mul(torch.tensor([[math.nan]]), torch.ones(1, 1)).isnan().all()
    with pytest.raises(ValueError, match="float32"):
        gelu_mul(gate.bfloat16(), gate.bfloat16())


def test_silu_far_out(kernels: Kernels) -> None:
    kernels(layers)
    gate = torch.tensor([[-1e30, -200.0, -90.0, 0.0, 90.0, 200.0, 1e30]])
    got = silu_mul(gate, torch.ones_like(gate))
    assert_close(got, torch.tensor([[0.0, 0.0, 0.0, 0.0, 90.0, 200.0, 1e30]]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("tokens", "size", "turned"), [(1, 64, 64), (7, 80, 80), (100, 64, 64), (5, 40, 16)])
def test_rotary_in_place(
    kernels: Kernels, threads: Threads, dtype: torch.dtype, tokens: int, size: int, turned: int
) -> None:
    kernels(layers)
    fused = draw(tokens, 9 + 3 + 3, size, dtype=dtype)
    config = LlamaConfig(hidden_size=turned, num_attention_heads=1, max_position_embeddings=4096)
    cos, sin = LlamaRotaryEmbedding(config)(fused, 1000 + torch.arange(tokens)[None])
    q, k = (part[..., :turned].transpose(0, 1)[None] for part in (fused[:, :9], fused[:, 9:12]))
    expected = fused.clone()
    for heads, answer in zip((slice(0, 9), slice(9, 12)), apply_rotary_pos_emb(q, k, cos, sin), strict=True):
        expected[:, heads, :turned] = answer[0].transpose(0, 1)

    def run() -> Tensor:
        got = fused.clone()
        rotary(got[:, :9], got[:, 9:12], cos[0], sin[0])
        return got

    got = assert_same_with_threads(threads, run)
    assert_close(got, expected)
    assert torch.equal(got[:, 12:], fused[:, 12:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_bit_of_a_row_changes_beside_a_broken_one(kernels: Kernels, dtype: torch.dtype) -> None:
    kernels(layers)
    x, weight = draw(3, 50, dtype=dtype), draw(50, dtype=dtype)
    broken = x.clone()
    broken[1] = math.nan
    for run in (lambda x: rms_norm(x, weight, 1e-6), lambda x: silu_mul(x, x)):
        assert not run(broken)[1].isfinite().any()
        assert torch.equal(run(broken)[[0, 2]], run(x)[[0, 2]])


def test_what_does_not_fit_is_refused() -> None:
    x = draw(4, 32)
    with pytest.raises(ValueError, match="rows' size"):
        rms_norm(x, draw(31), 1e-6)
    with pytest.raises(ValueError, match="float32 and bfloat16"):
        rms_norm(x.double(), draw(32).double(), 1e-6)
    with pytest.raises(ValueError, match="one piece"):
        rms_norm(draw(32, 4).T, draw(32), 1e-6)
    with pytest.raises(ValueError, match="one size"):
        silu_mul(x, x[:3])
    heads, turn = draw(4, 2, 8), draw(4, 8)
    with pytest.raises(ValueError, match="even size"):
        rotary(heads, heads, turn, turn[:, :4])
    with pytest.raises(ValueError, match="one piece"):
        rotary(heads[:3], heads, turn, turn)
    with pytest.raises(ValueError, match="one dtype"):
        rotary(heads, heads.bfloat16(), turn, turn)
