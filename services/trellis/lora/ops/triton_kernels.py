"""Three kernels of which LoRA's forward and backward for a mixed batch are made; importing this needs Triton.

Everything is cut into pieces by tables on the device, so that a recorded CUDA graph does another step's work when the
tables are filled anew: a piece without tokens or rank rows ends at once. Each number that is written is written by one
program, and sums are taken in an order that is fixed: no atomics.

Names: x and y are rows of the batch, w is A or B, `s` holds the products with rank rows, (splits, T, P, K), which are
not scaled yet: whoever reads them sums the splits and scales.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl

from trellis.lora.ops.triton_tables import ITEM, PART, ROW, TILE

_ITEM: tl.constexpr = tl.constexpr(ITEM)
_ROW: tl.constexpr = tl.constexpr(ROW)
_TILE: tl.constexpr = tl.constexpr(TILE)
_PART: tl.constexpr = tl.constexpr(PART)


@triton.jit
def shrink_kernel(
    x,
    w,
    s,
    scale,
    items,
    parts,
    x_stride,
    w_stride,
    s_split,
    s_token,
    rank,
    part_count,
    splits,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """One split of s = x · wᵀ for some tokens, one part and one block of rank rows; grid (items, parts, splits)."""
    item = items + tl.program_id(0) * _ITEM
    part = tl.program_id(1)
    split = tl.program_id(2)
    tokens = tl.load(item + 1)
    if tokens == 0:
        return
    if tl.load(scale + tl.load(item + 5) * part_count + part) == 0.0:
        return
    rows = tl.load(item + 3)
    x_column = tl.multiple_of(tl.load(parts + part * _PART), ALIGN)
    w_column = tl.multiple_of(tl.load(parts + part * _PART + 1), ALIGN)
    width = tl.multiple_of(tl.load(parts + part * _PART + 2), ALIGN)
    t = tl.arange(0, BLOCK_T)
    r = tl.arange(0, BLOCK_R)
    c = tl.arange(0, BLOCK_C)
    token = (tl.load(item) + t).to(tl.int64)
    row = (tl.load(item + 2) + r).to(tl.int64)
    x_at = x + token[:, None] * x_stride + x_column + c[None, :]
    w_at = w + row[:, None] * w_stride + w_column + c[None, :]
    chunk = tl.cdiv(tl.cdiv(width, splits), BLOCK_C) * BLOCK_C
    start = split * chunk
    stop = tl.minimum(start + chunk, width)
    sums = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
    for column in range(start, stop, BLOCK_C):
        inside = column + c[None, :] < stop
        x_tC = tl.load(x_at + column, mask=(t[:, None] < tokens) & inside, other=0.0)
        w_rC = tl.load(w_at + column, mask=(r[:, None] < rows) & inside, other=0.0)
        sums = tl.dot(x_tC, tl.trans(w_rC.to(x_tC.dtype)), sums, input_precision="ieee")
    s_at = s + split * s_split + token[:, None] * s_token + part * rank + tl.load(item + 4) + r[None, :]
    tl.store(s_at, sums, mask=(t[:, None] < tokens) & (r[None, :] < rows))


@triton.jit
def _summed(s_at, mask, s_split, splits: tl.constexpr):
    """The splits' sum, first to last."""
    total = tl.load(s_at, mask=mask, other=0.0)
    for split in tl.static_range(1, splits):
        total += tl.load(s_at + split * s_split, mask=mask, other=0.0)
    return total


@triton.jit
def expand_kernel(
    y,
    w,
    s,
    scale,
    items,
    tiles,
    y_stride,
    w_stride,
    w_part,
    s_split,
    s_token,
    rank,
    part_count,
    SPLITS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """y += scale · s · w for some tokens and columns, summed over the parts that reach them; grid (items, tiles)."""
    item = items + tl.program_id(0) * _ROW
    tile = tiles + tl.program_id(1) * _TILE
    tokens = tl.load(item + 1)
    if tokens == 0:
        return
    rows = tl.load(item + 3)
    scale_at = scale + tl.load(item + 4) * part_count
    t = tl.arange(0, BLOCK_T)
    r = tl.arange(0, BLOCK_R)
    c = tl.arange(0, BLOCK_C)
    token = (tl.load(item) + t).to(tl.int64)
    row = (tl.load(item + 2) + r).to(tl.int64)
    columns = tl.multiple_of(tl.load(tile + 1), ALIGN)
    column = tl.multiple_of(tl.load(tile), ALIGN)
    w_column = tl.multiple_of(tl.load(tile + 4), ALIGN)
    w_at = w + w_column + c[None, :]
    s_at = s + token[:, None] * s_token + r[None, :]
    mask_tC = (t[:, None] < tokens) & (c[None, :] < columns)
    first = tl.load(tile + 2)
    added = tl.zeros((BLOCK_T, BLOCK_C), dtype=tl.float32)
    for number in range(tl.load(tile + 3)):
        part = first + number
        factor = tl.load(scale_at + part)
        if factor != 0.0:
            for start in range(0, rows, BLOCK_R):
                inside = (t[:, None] < tokens) & (start + r[None, :] < rows)
                s_tR = _summed(s_at + part * rank + start, inside, s_split, SPLITS) * factor
                w_mask = (start + r[:, None] < rows) & (c[None, :] < columns)
                w_RC = tl.load(w_at + (row[:, None] + start) * w_stride + number * w_part, mask=w_mask, other=0.0)
                w_RC = w_RC.to(y.dtype.element_ty)
                added = tl.dot(s_tR.to(w_RC.dtype), w_RC, added, input_precision="ieee")
    y_at = y + token[:, None] * y_stride + column + c[None, :]
    y_tC = tl.load(y_at, mask=mask_tC, other=0.0)
    tl.store(y_at, (y_tC.to(tl.float32) + added).to(y_tC.dtype), mask=mask_tC)


@triton.jit
def outer_kernel(
    grad,
    x,
    s,
    scale,
    owners,
    items,
    tiles,
    grad_stride,
    x_stride,
    s_split,
    s_token,
    rank,
    part_count,
    SPLITS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """grad += (scale · s)ᵀ · x for one block of rank rows and some columns, over all its tokens; grid (owners, tiles)."""
    owner = owners + tl.program_id(0) * _ITEM
    tile = tiles + tl.program_id(1) * _TILE
    rows = tl.load(owner + 1)
    if rows == 0:
        return
    part = tl.load(tile + 2)
    factor = tl.load(scale + tl.load(owner + 3) * part_count + part)
    if factor == 0.0:
        return
    t = tl.arange(0, BLOCK_T)
    r = tl.arange(0, BLOCK_R)
    c = tl.arange(0, BLOCK_C)
    columns = tl.multiple_of(tl.load(tile + 1), ALIGN)
    column = tl.multiple_of(tl.load(tile), ALIGN)
    w_column = tl.multiple_of(tl.load(tile + 4), ALIGN)
    x_at = x + column + c[None, :]
    s_at = s + part * rank + tl.load(owner + 2) + r[None, :]
    sums = tl.zeros((BLOCK_R, BLOCK_C), dtype=tl.float32)
    for number in range(tl.load(owner + 4), tl.load(owner + 5)):
        tokens = tl.load(items + number * _ROW + 1)
        token = (tl.load(items + number * _ROW) + t).to(tl.int64)
        inside = (t[:, None] < tokens) & (r[None, :] < rows)
        s_tR = _summed(s_at + token[:, None] * s_token, inside, s_split, SPLITS) * factor
        x_mask = (t[:, None] < tokens) & (c[None, :] < columns)
        x_tC = tl.load(x_at + token[:, None] * x_stride, mask=x_mask, other=0.0)
        sums = tl.dot(tl.trans(s_tR.to(x_tC.dtype)), x_tC, sums, input_precision="ieee")
    row = (tl.load(owner) + r).to(tl.int64)
    grad_at = grad + row[:, None] * grad_stride + w_column + c[None, :]
    mask = (r[:, None] < rows) & (c[None, :] < columns)
    before = tl.load(grad_at, mask=mask, other=0.0)
    tl.store(grad_at, (before.to(tl.float32) + sums).to(before.dtype), mask=mask)
