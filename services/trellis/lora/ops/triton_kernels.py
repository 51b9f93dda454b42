"""Three kernels of which LoRA's forward and backward for a mixed batch are made; importing this needs Triton.

Everything is cut into pieces by tables on the device, so that a recorded CUDA graph does another step's work when the
tables are filled anew: a piece without tokens or rank rows ends at once. Each number that is written is written by one
program, and sums are taken in an order that is fixed: no atomics.

Names: x and y are rows of the batch, `values` holds all adapters' numbers, and w is A or Bᵀ of one adapter and part: it
begins at the part's place, or behind A, which is `skip` numbers a rank row further. `s` holds the products with rank rows,
(splits, T, P, K), which are not scaled yet: whoever reads them sums the splits and scales. Where an adapter lies and what
its rank is at each part is read when a kernel is run, not when it is recorded.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl

from trellis.lora.ops.triton_tables import ITEM, OWNER, PART, ROW, TILE

_ITEM: tl.constexpr = tl.constexpr(ITEM)
_ROW: tl.constexpr = tl.constexpr(ROW)
_OWNER: tl.constexpr = tl.constexpr(OWNER)
_TILE: tl.constexpr = tl.constexpr(TILE)
_PART: tl.constexpr = tl.constexpr(PART)


@triton.jit
def shrink_kernel(
    x,
    values,
    s,
    places,
    ranks,
    scale,
    items,
    parts,
    x_stride,
    skip,
    s_split,
    s_token,
    s_part,
    slot_stride,
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
    first = tl.load(item + 2)
    at = tl.load(item + 3) * slot_stride + part
    rank = tl.load(ranks + at)
    place = tl.load(places + at) + rank.to(tl.int64) * skip
    if (tokens == 0) | (rank <= first) | (tl.load(scale + at) == 0.0):
        return
    x_column = tl.multiple_of(tl.load(parts + part * _PART), ALIGN)
    width = tl.multiple_of(tl.load(parts + part * _PART + 1), ALIGN)
    t = tl.arange(0, BLOCK_T)
    r = tl.arange(0, BLOCK_R)
    c = tl.arange(0, BLOCK_C)
    token = (tl.load(item) + t).to(tl.int64)
    row = (first + r).to(tl.int64)
    own = first + r < rank
    x_at = x + token[:, None] * x_stride + x_column + c[None, :]
    w_at = values + tl.multiple_of(place, ALIGN) + row[:, None] * width + c[None, :]
    chunk = tl.cdiv(tl.cdiv(width, splits), BLOCK_C) * BLOCK_C
    start = split * chunk
    stop = tl.minimum(start + chunk, width)
    sums = tl.zeros((BLOCK_T, BLOCK_R), dtype=tl.float32)
    for column in range(start, stop, BLOCK_C):
        inside = column + c[None, :] < stop
        x_tC = tl.load(x_at + column, mask=(t[:, None] < tokens) & inside, other=0.0)
        w_rC = tl.load(w_at + column, mask=own[:, None] & inside, other=0.0)
        sums = tl.dot(x_tC, tl.trans(w_rC.to(x_tC.dtype)), sums, input_precision="ieee")
    s_at = s + split * s_split + token[:, None] * s_token + part * s_part + row[None, :]
    tl.store(s_at, sums, mask=(t[:, None] < tokens) & own[None, :])


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
    values,
    s,
    places,
    ranks,
    scale,
    items,
    tiles,
    y_stride,
    skip,
    s_split,
    s_token,
    s_part,
    slot_stride,
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
    slot_at = tl.load(item + 2) * slot_stride
    t = tl.arange(0, BLOCK_T)
    r = tl.arange(0, BLOCK_R)
    c = tl.arange(0, BLOCK_C)
    token = (tl.load(item) + t).to(tl.int64)
    columns = tl.multiple_of(tl.load(tile + 1), ALIGN)
    column = tl.multiple_of(tl.load(tile), ALIGN)
    w_column = tl.multiple_of(tl.load(tile + 4), ALIGN)
    width = tl.multiple_of(tl.load(tile + 5), ALIGN)
    row = r.to(tl.int64)
    w_at = values + w_column + c[None, :]
    s_at = s + token[:, None] * s_token + r[None, :]
    mask_tC = (t[:, None] < tokens) & (c[None, :] < columns)
    first = tl.load(tile + 2)
    added = tl.zeros((BLOCK_T, BLOCK_C), dtype=tl.float32)
    for part in range(first, first + tl.load(tile + 3)):
        factor = tl.load(scale + slot_at + part)
        if factor != 0.0:
            rank = tl.load(ranks + slot_at + part)
            place = tl.load(places + slot_at + part) + rank.to(tl.int64) * skip
            part_at = w_at + tl.multiple_of(place, ALIGN)
            for start in range(0, rank, BLOCK_R):
                inside = (t[:, None] < tokens) & (start + r[None, :] < rank)
                s_tR = _summed(s_at + part * s_part + start, inside, s_split, SPLITS) * factor
                w_mask = (start + r[:, None] < rank) & (c[None, :] < columns)
                w_RC = tl.load(part_at + (start + row[:, None]) * width, mask=w_mask, other=0.0)
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
    places,
    ranks,
    scale,
    owners,
    items,
    tiles,
    x_stride,
    skip,
    s_split,
    s_token,
    s_part,
    slot_stride,
    SPLITS: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """grad += (scale · s)ᵀ · x for one block of rank rows and some columns, over all its tokens; grid (owners, tiles)."""
    owner = owners + tl.program_id(0) * _OWNER
    tile = tiles + tl.program_id(1) * _TILE
    start = tl.load(owner)
    part = tl.load(tile + 2)
    at = tl.load(owner + 1) * slot_stride + part
    rank = tl.load(ranks + at)
    place = tl.load(places + at) + rank.to(tl.int64) * skip
    factor = tl.load(scale + at)
    if (rank <= start) | (factor == 0.0):
        return
    t = tl.arange(0, BLOCK_T)
    r = tl.arange(0, BLOCK_R)
    c = tl.arange(0, BLOCK_C)
    columns = tl.multiple_of(tl.load(tile + 1), ALIGN)
    column = tl.multiple_of(tl.load(tile), ALIGN)
    w_column = tl.multiple_of(tl.load(tile + 4), ALIGN)
    width = tl.multiple_of(tl.load(tile + 5), ALIGN)
    row = (start + r).to(tl.int64)
    own = start + r < rank
    x_at = x + column + c[None, :]
    s_at = s + part * s_part + row[None, :]
    sums = tl.zeros((BLOCK_R, BLOCK_C), dtype=tl.float32)
    for number in range(tl.load(owner + 2), tl.load(owner + 3)):
        tokens = tl.load(items + number * _ROW + 1)
        token = (tl.load(items + number * _ROW) + t).to(tl.int64)
        inside = (t[:, None] < tokens) & own[None, :]
        s_tR = _summed(s_at + token[:, None] * s_token, inside, s_split, SPLITS) * factor
        x_mask = (t[:, None] < tokens) & (c[None, :] < columns)
        x_tC = tl.load(x_at + token[:, None] * x_stride, mask=x_mask, other=0.0)
        sums = tl.dot(tl.trans(s_tR.to(x_tC.dtype)), x_tC, sums, input_precision="ieee")
    grad_at = grad + tl.multiple_of(place, ALIGN) + row[:, None] * width + w_column + c[None, :]
    mask = own[:, None] & (c[None, :] < columns)
    before = tl.load(grad_at, mask=mask, other=0.0)
    tl.store(grad_at, (before.to(tl.float32) + sums).to(before.dtype), mask=mask)
