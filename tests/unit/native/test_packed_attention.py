"""T tokens, Q query heads, H key-value heads, D head size, L length of a sequence."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trellis.native import packed_attention as module
from trellis.native.packed_attention import packed_attention

Kernels = Callable[..., None]
Threads = Callable[[int], None]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def spans_of(lengths: Sequence[int], first: int = 0) -> Tensor:
    firsts = [first + sum(lengths[:number]) for number in range(len(lengths))]
    return torch.tensor(list(zip(firsts, lengths, strict=True)), dtype=torch.int32).reshape(-1, 2)


def ours(spans_S2: Tensor, scale: float, window: int | None = None) -> Attend:
    return lambda q, k, v: packed_attention(q, k, v, spans_S2, scale=scale, window=window)


def plain(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], scale: float, window: int | None) -> Tensor:
    done, at = [], 0
    for length in lengths:
        rows = slice(at, at + length)
        at += length
        reads_LL = torch.ones(length, length, dtype=torch.bool).tril()
        if window is not None:
            reads_LL = reads_LL.triu(1 - window)
        a, b, c = (x[rows].transpose(0, 1)[None] for x in (q, k, v))
        attended = functional.scaled_dot_product_attention(a, b, c, attn_mask=reads_LL, scale=scale, enable_gqa=True)
        done.append(attended[0].transpose(0, 1))
    return torch.cat([*done, torch.zeros(len(q) - at, *q.shape[1:], dtype=q.dtype)])


def run(attend: Attend, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    """The result, and the gradients of q, k and v."""
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    result = attend(*leaves)
    result.backward(draw(*result.shape, seed=9).to(result.dtype))
    return (result.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None))


@pytest.mark.parametrize("lengths", [(), (1,), (5, 1, 17), (16, 32, 128), (27,) * 9, (100, 3)])
@pytest.mark.parametrize(("heads", "keys", "size"), [(1, 1, 16), (8, 4, 32), (6, 1, 64)])
@pytest.mark.parametrize("window", [None, 1, 7, 40])
def test_is_causal_attention(
    kernels: Kernels, threads: Threads, lengths: tuple[int, ...], heads: int, keys: int, size: int, window: int | None
) -> None:
    kernels(module)
    tokens = sum(lengths) + 3
    q, k, v = draw(tokens, heads, size, seed=1), draw(tokens, keys, size, seed=2), draw(tokens, keys, size, seed=3)
    attend = ours(spans_of(lengths), 0.3, window)
    threads(1)
    got = run(attend, q, k, v)
    threads(2)
    for one, again in zip(got, run(attend, q, k, v), strict=True):
        assert torch.equal(one, again)
    if not lengths:
        assert not any(tensor.any() for tensor in got)
        return
    expected = run(lambda a, b, c: plain(a, b, c, lengths, 0.3, window), q.double(), k.double(), v.double())
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=2e-5, atol=2e-5)


def test_a_sequence_depends_on_itself_alone() -> None:
    q, k, v = draw(60, 4, 32, seed=1), draw(60, 2, 32, seed=2), draw(60, 2, 32, seed=3)
    alone = run(ours(spans_of((20,), 20), 0.2), q, k, v)
    for bad in (torch.nan, torch.inf, 1e30):
        beside = [x.clone() for x in (q, k, v)]
        for x in beside:
            x[:20] = bad
            x[40:] = bad
        for one, other in zip(run(ours(spans_of((20, 20, 15)), 0.2), *beside), alone, strict=True):
            assert torch.equal(one[20:40], other[20:40])


def test_heads_of_a_wider_tensor() -> None:
    wide = draw(30, 8, 32).requires_grad_()
    q, k, v = wide.split((4, 2, 2), 1)
    attend = ours(spans_of((13, 17)), 1.0)
    result, *grads = run(attend, q, k, v)
    attended = attend(q, k, v)
    attended.backward(draw(*attended.shape, seed=9))
    assert torch.equal(attended, result)
    assert torch.equal(torch.cat(grads, 1), wide.grad)  # type: ignore[arg-type]


def test_far_scores() -> None:
    q, k, v = draw(9, 1, 16) * 1e3, draw(9, 1, 16, seed=1) * 1e3, draw(9, 1, 16, seed=2)
    got = run(ours(spans_of((9,)), 1.0), q, k, v)
    assert all(tensor.isfinite().all() for tensor in got)
    torch.testing.assert_close(got[0].double(), plain(q.double(), k.double(), v.double(), (9,), 1.0, None))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": draw(30, 3, 32)}, "of one size"),
        ({"q": draw(30, 4, 24), "k": draw(30, 2, 24), "v": draw(30, 2, 24)}, "multiple of 16"),
        ({"q": draw(30, 4, 32).double()}, "float32"),
        ({"spans": spans_of((31,))}, "outside"),
        ({"spans": torch.tensor([[0, 9], [5, 3]], dtype=torch.int32)}, "follow one another"),
        ({"spans": torch.tensor([[0, 9]])}, "int32"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Tensor], message: str) -> None:
    given = {"q": draw(30, 4, 32), "k": draw(30, 2, 32), "v": draw(30, 2, 32), "spans": spans_of((30,)), **change}
    with pytest.raises(ValueError, match=message):
        packed_attention(given["q"], given["k"], given["v"], given["spans"], scale=1.0)
