"""What attention on a GPU must compute, on any device; run in Triton's interpreter as `tests.triton_cases` says."""

import importlib
from dataclasses import dataclass

import torch

from tests.triton_cases import close
from trellis.engine.attention import Formula, SdpaBackend
from trellis.engine.batch import Batch, Layout, Piece
from trellis.engine.cuda import paged
from trellis.engine.cuda.attention import CudaBackend
from trellis.engine.kv_cache import KVCache, LayerShape

BLOCK = 16


@dataclass(frozen=True, slots=True)
class Case:
    """One layer, and sequences with (tokens in the cache, new tokens)."""

    name: str
    sequences: tuple[tuple[int, int], ...]
    queries: int = 4
    heads: int = 2
    key: int = 16
    value: int = 16
    window: int | None = None
    cap: float | None = None
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        return self.name


def layout_of(case: Case, device: str) -> Layout:
    """With block tables that are no two alike and in no order."""
    wanted = [-(-(before + new) // BLOCK) for before, new in case.sequences]
    blocks = torch.randperm(sum(wanted) + 3, generator=torch.Generator().manual_seed(5)).tolist()
    pieces = [
        Piece([1] * new, before, [blocks.pop() for _ in range(count)], None, wants_logits=True)
        for (before, new), count in zip(case.sequences, wanted, strict=True)
    ]
    return Batch.of(pieces, BLOCK, torch.device(device)).layout


def attends(case: Case, device: str) -> None:
    """The same as SDPA over the same cache; blocks that are no one's hold what is not a number."""
    generator = torch.Generator().manual_seed(11)
    layout = layout_of(case, device)
    tokens = len(layout.rows_T)
    shape = LayerShape(case.heads, case.key, case.value)
    blocks = int(layout.blocks_BM.max()) + 2
    caches = [KVCache({0: shape}, blocks, BLOCK, case.dtype, torch.device(device)).layers[0] for _ in range(2)]
    for side in ("keys_NHtD", "values_NHtD"):
        known = torch.full(getattr(caches[0], side).shape, torch.nan, dtype=torch.float32)
        for span, table in zip(layout.spans, layout.blocks_BM.tolist(), strict=True):
            for token in range(span.position):
                at = known[table[token // BLOCK], :, token % BLOCK]
                at.copy_(torch.randn(at.shape, generator=generator))
        for cache in caches:
            getattr(cache, side).copy_(known)
    sizes = ((case.queries, case.key), (case.heads, case.key), (case.heads, case.value))
    q_TQD, k_THD, v_THD = (
        torch.randn(heads, tokens, size, generator=generator).to(device, case.dtype).transpose(0, 1)
        for heads, size in sizes
    )
    formula = Formula(case.key**-0.5, case.window, case.cap)
    found = CudaBackend().attend(q_TQD, k_THD, v_THD, caches[0], layout, formula)
    expected = SdpaBackend().attend(q_TQD, k_THD, v_THD, caches[1], layout, formula)
    close(found, expected, 2e-6 if case.dtype == torch.float32 else 1e-2)
    for side in ("keys_NHtD", "values_NHtD"):
        one, other = (getattr(cache, side).nan_to_num(7.0) for cache in caches)
        assert torch.equal(one, other)


def padded(device: str) -> None:
    """A sequence of padding writes nowhere, reads nothing and is answered with zeros, beside one that is real."""
    for tokens in (40, 4096):  # one split, several splits
        layer = KVCache({0: LayerShape(2, 16, 16)}, 256, BLOCK, torch.float32, torch.device(device)).layers[0]
        layer.keys_NHtD.fill_(1.0)
        layer.values_NHtD.fill_(1.0)
        blocks_BM = torch.zeros(2, tokens // BLOCK + 1, dtype=torch.int32, device=device)
        blocks_BM[0] = torch.arange(blocks_BM.shape[1])
        layout = Layout(
            (),
            torch.arange(3, dtype=torch.int32, device=device),
            torch.tensor([tokens - 1, -1], dtype=torch.int32, device=device),
            blocks_BM,
            torch.tensor([tokens - 1, -1], device=device),
            BLOCK,
        )
        before = layer.keys_NHtD.clone()
        new = torch.full((2, 2, 16), 1.0, device=device)
        new[1] = torch.nan
        paged.write(new, new, layout.rows_T, layer)
        assert torch.equal(layer.keys_NHtD, before)
        out_TQD = torch.full((2, 4, 16), torch.nan, device=device)
        paged.decode(out_TQD, torch.ones(2, 4, 16, device=device), layer, layout, Formula(1.0, None, None))
        close(out_TQD[0], torch.ones(4, 16, device=device), 1e-5)
        assert (out_TQD[1] == 0).all()


def compile_for(capability: int, name: str, dtype: str) -> None:
    """Down to machine code, which needs no GPU."""
    compiler = importlib.import_module("triton.compiler")
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", capability, 32)
    kernel = getattr(paged.kernels(), name)
    sizes = {"BLOCK_TOKENS": 16, "KEY": 128, "VALUE": 128, "BLOCK_K": 128, "BLOCK_V": 128, "BLOCK_N": 64}
    sizes |= {"BLOCK_H": 16, "BLOCK_G": 16, "GROUP": 4}
    pointers = dict.fromkeys(("partial", "highest", "weight"), "*fp32") | {"rows": "*i64"}
    pointers |= dict.fromkeys(("starts", "positions", "blocks"), "*i32")
    pointers |= dict.fromkeys(("q", "k", "v", "keys", "values", "out"), f"*{dtype}")
    plain = pointers | {"scaling": "fp32", "cap": "fp32"}
    for splits, has in ((1, True), (8, False)):
        constants = {**sizes, "SPLITS": splits, "HAS_CAP": has, "HAS_WINDOW": has}
        kept = {argument: value for argument, value in constants.items() if argument in kernel.arg_names}
        signature = {name: "constexpr" if name in kept else plain.get(name, "i32") for name in kernel.arg_names}
        source = compiler.ASTSource(fn=kernel, signature=signature, constexprs=kept)
        assert compiler.compile(source, target=target, options=dict(paged.COMPILE)).asm["cubin"]
