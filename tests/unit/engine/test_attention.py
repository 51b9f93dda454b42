"""Both ways to attend over the paged cache against the plain formula."""

import math
from typing import Final

import pytest
import torch
from torch import Tensor

from trellis.engine.attention import AttentionBackend, Formula, NativeBackend, SdpaBackend
from trellis.engine.batch import Batch, Piece
from trellis.engine.kv_cache import KVCache, LayerShape
from trellis.native.build import available

_HEADS: Final = 6
_BLOCK_TOKENS: Final = 16
_BLOCKS: Final = 12
_BACKENDS: Final = [
    pytest.param(SdpaBackend(), id="sdpa"),
    pytest.param(NativeBackend(), id="native", marks=pytest.mark.skipif(not available(), reason="no C++ compiler")),
]
_FORMULAS: Final = {
    "plain": Formula(0.3, None, None),
    "window": Formula(0.25, 5, None),
    "wide_window": Formula(0.25, 64, None),
    "softcap": Formula(0.5, None, 3.0),
    "both": Formula(0.5, 7, 3.0),
}


def _plain(q_TQD: Tensor, k_LHD: Tensor, v_LHD: Tensor, formula: Formula) -> Tensor:
    """The tokens are the last of the L."""
    new, read = len(q_TQD), len(k_LHD)
    k_LQD, v_LQD = (tensor.repeat_interleave(_HEADS // tensor.shape[1], 1) for tensor in (k_LHD, v_LHD))
    scores_QTL = torch.einsum("tqd,lqd->qtl", q_TQD, k_LQD) * formula.scaling
    if formula.softcap is not None:
        scores_QTL = formula.softcap * torch.tanh(scores_QTL / formula.softcap)
    distance_TL = torch.arange(read - new, read).unsqueeze(1) - torch.arange(read)
    hidden_TL = (distance_TL < 0) | (distance_TL >= (formula.sliding_window or read))
    return torch.einsum("qtl,lqd->tqd", scores_QTL.masked_fill(hidden_TL, -math.inf).softmax(-1), v_LQD)


class _Sequence:
    """Its tokens' vectors, and where they are kept."""

    def __init__(self, length: int, blocks: list[int], shape: LayerShape, generator: torch.Generator) -> None:
        self.blocks = blocks
        self.q_LQD = torch.randn(length, _HEADS, shape.key_size, generator=generator)
        self.k_LHD = torch.randn(length, shape.kv_heads, shape.key_size, generator=generator)
        self.v_LHD = torch.randn(length, shape.kv_heads, shape.value_size, generator=generator)


def _cache(shape: LayerShape, dtype: torch.dtype) -> KVCache:
    return KVCache({0: shape}, _BLOCKS, _BLOCK_TOKENS, dtype, torch.device("cpu"))


def _run(
    backend: AttentionBackend, cache: KVCache, formula: Formula, steps: list[list[tuple[_Sequence, int, int]]]
) -> dict[int, Tensor]:
    """Each step is (sequence, first, stop); the answers of each sequence."""
    answers: dict[int, list[Tensor]] = {}
    dtype = cache.layers[0].keys_NHtD.dtype
    for step in steps:
        pieces = [Piece([0] * (stop - first), first, seq.blocks, None, wants_logits=False) for seq, first, stop in step]
        layout = Batch.of(pieces, _BLOCK_TOKENS, torch.device("cpu")).layout
        q, k, v = (
            torch.cat([getattr(seq, name)[first:stop] for seq, first, stop in step]).to(dtype)
            for name in ("q_LQD", "k_LHD", "v_LHD")
        )
        attended = backend.attend(q, k, v, cache.layers[0], layout, formula)
        for (seq, _, _), span in zip(step, layout.spans, strict=True):
            answers.setdefault(id(seq), []).append(attended[span.start : span.stop].float())
    return {key: torch.cat(parts) for key, parts in answers.items()}


@pytest.mark.parametrize("backend", _BACKENDS)
@pytest.mark.parametrize("formula", _FORMULAS.values(), ids=_FORMULAS)
@pytest.mark.parametrize("shape", [LayerShape(2, 16, 16), LayerShape(6, 8, 8), LayerShape(1, 24, 16)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_chunks_and_single_tokens(
    backend: AttentionBackend, formula: Formula, shape: LayerShape, dtype: torch.dtype
) -> None:
    """Two sequences in scattered blocks; what earlier owners left in the blocks is NaN."""
    generator = torch.Generator().manual_seed(0)
    long, short = (_Sequence(n, b, shape, generator) for n, b in ((40, [7, 2, 9]), (18, [4, 3])))
    cache = _cache(shape, dtype)
    for tensor in (cache.layers[0].keys_NHtD, cache.layers[0].values_NHtD):
        tensor.fill_(math.nan)
    steps = [
        [(long, 0, 20)],
        [(long, 20, 33), (short, 0, 17)],
        [(short, 17, 18), (long, 33, 34)],
        *([(long, at, at + 1)] for at in range(34, 40)),
    ]
    answers = _run(backend, cache, formula, steps)
    for sequence in (long, short):
        expected = _plain(sequence.q_LQD, sequence.k_LHD, sequence.v_LHD, formula)
        tolerance = 1e-5 if dtype == torch.float32 else 0.06
        torch.testing.assert_close(answers[id(sequence)], expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("backend", _BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_neighbours_numbers_change_no_bit(backend: AttentionBackend, dtype: torch.dtype) -> None:
    """Whatever the other sequence says, NaN or 1e30."""
    shape, formula = LayerShape(2, 16, 16), _FORMULAS["plain"]
    answers = []
    for poison in (None, math.nan, math.inf, 1e30):
        generator = torch.Generator().manual_seed(0)
        good, bad = (_Sequence(20, b, shape, generator) for b in ([0, 2], [1, 3]))
        if poison is not None:
            for tensor in (bad.q_LQD, bad.k_LHD, bad.v_LHD):
                tensor.fill_(poison)
        steps = [[(bad, 0, 9), (good, 0, 19)], [(good, 19, 20), (bad, 9, 10)]]
        answers.append(_run(backend, _cache(shape, dtype), formula, steps)[id(good)])
    assert all(torch.equal(answer, answers[0]) for answer in answers)


def test_cache_counts_its_bytes_exactly() -> None:
    """Layers may have heads of other sizes."""
    shapes = {0: LayerShape(2, 16, 16), 1: LayerShape(1, 24, 8)}
    cache = KVCache(shapes, 5, _BLOCK_TOKENS, torch.bfloat16, torch.device("cpu"))
    held = sum(t.nbytes for layer in cache.layers.values() for t in (layer.keys_NHtD, layer.values_NHtD))
    assert cache.nbytes == held == 5 * cache.bytes_per_block
