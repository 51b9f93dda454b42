"""Triton kernels over the paged KV cache: writing to it, and attention of sequences that decode; needs Triton.

A block's numbers lie as the cache's shape says: (blocks, key-value heads, tokens a block, head size).
"""
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def write_kernel(
    keys,
    values,
    k,
    v,
    rows,
    heads,
    keys_block,
    keys_head,
    values_block,
    values_head,
    k_token,
    k_head,
    v_token,
    v_head,
    BLOCK_TOKENS: tl.constexpr,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """Put one token's keys and values into its place; a place below 0 is none; grid (tokens)."""
    token = tl.program_id(0).to(tl.int64)
    place = tl.load(rows + token)
    if place < 0:
        return
    block = place // BLOCK_TOKENS
    offset = place % BLOCK_TOKENS
    h = tl.arange(0, BLOCK_H)
    d = tl.arange(0, BLOCK_K)
    mask = (h[:, None] < heads) & (d[None, :] < KEY)
    found = tl.load(k + token * k_token + h[:, None] * k_head + d[None, :], mask=mask)
    tl.store(keys + block * keys_block + h[:, None] * keys_head + offset * KEY + d[None, :], found, mask=mask)
    d = tl.arange(0, BLOCK_V)
    mask = (h[:, None] < heads) & (d[None, :] < VALUE)
    found = tl.load(v + token * v_token + h[:, None] * v_head + d[None, :], mask=mask)
    tl.store(values + block * values_block + h[:, None] * values_head + offset * VALUE + d[None, :], found, mask=mask)


@triton.jit
def decode_kernel(
    q,
    keys,
    values,
    out,
    partial,
    highest,
    weight,
    starts,
    positions,
    blocks,
    scaling,
    cap,
    window,
    q_token,
    q_head,
    out_token,
    blocks_row,
    keys_block,
    keys_head,
    values_block,
    values_head,
    SPLITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    KEY: tl.constexpr,
    VALUE: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    HAS_CAP: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
):
    """The queries of one key-value head over one split of a sequence's tokens; grid (sequences, heads, splits).

    A sequence with another count of new tokens than one is left alone. Softmax is taken as the tokens come
    (https://arxiv.org/abs/1805.02867). With one split `out` is written, else what `merge_kernel` needs.
    """
    sequence = tl.program_id(0)
    head = tl.program_id(1)
    split = tl.program_id(2)
    row = tl.load(starts + sequence).to(tl.int64)
    if tl.load(starts + sequence + 1) - row != 1:
        return
    length = tl.load(positions + sequence) + 1
    first = tl.maximum(length - window, 0) if HAS_WINDOW else 0
    share = tl.cdiv(tl.cdiv(length - first, SPLITS), BLOCK_N) * BLOCK_N
    start = first + split * share
    stop = tl.minimum(start + share, length)
    g = tl.arange(0, BLOCK_G)
    n = tl.arange(0, BLOCK_N)
    dk = tl.arange(0, BLOCK_K)
    dv = tl.arange(0, BLOCK_V)
    heads = head * GROUP + g
    q_at = q + row * q_token + heads[:, None] * q_head + dk[None, :]
    q_GK = tl.load(q_at, mask=(g[:, None] < GROUP) & (dk[None, :] < KEY), other=0.0)
    high_G = tl.full((BLOCK_G,), float("-inf"), dtype=tl.float32)
    total_G = tl.zeros((BLOCK_G,), dtype=tl.float32)
    sums_GV = tl.zeros((BLOCK_G, BLOCK_V), dtype=tl.float32)
    for token in range(start, stop, BLOCK_N):
        at = token + n
        inside = at < stop
        block = tl.load(blocks + sequence * blocks_row + at // BLOCK_TOKENS, mask=inside, other=0).to(tl.int64)
        offset = at % BLOCK_TOKENS
        keys_at = keys + (block * keys_block + head * keys_head)[:, None] + offset[:, None] * KEY + dk[None, :]
        k_NK = tl.load(keys_at, mask=inside[:, None] & (dk[None, :] < KEY), other=0.0)
        scores_GN = tl.dot(q_GK, tl.trans(k_NK), input_precision="ieee") * scaling
        if HAS_CAP:
            scores_GN = cap * (2.0 * tl.sigmoid(2.0 * scores_GN / cap) - 1.0)  # cap · tanh(score / cap)
        scores_GN = tl.where(inside[None, :], scores_GN, float("-inf"))
        higher_G = tl.maximum(high_G, tl.max(scores_GN, 1))
        weights_GN = tl.exp(scores_GN - higher_G[:, None])
        shrink_G = tl.exp(high_G - higher_G)
        values_at = (
            values + (block * values_block + head * values_head)[:, None] + offset[:, None] * VALUE + dv[None, :]
        )
        v_NV = tl.load(values_at, mask=inside[:, None] & (dv[None, :] < VALUE), other=0.0)
        total_G = total_G * shrink_G + tl.sum(weights_GN, 1)
        sums_GV = tl.dot(weights_GN.to(v_NV.dtype), v_NV, sums_GV * shrink_G[:, None], input_precision="ieee")
        high_G = higher_G
    mask = (g[:, None] < GROUP) & (dv[None, :] < VALUE)
    if SPLITS == 1:
        answer = sums_GV / tl.where(total_G == 0.0, 1.0, total_G)[:, None]
        out_at = out + row * out_token + heads[:, None] * VALUE + dv[None, :]
        tl.store(out_at, answer.to(out.dtype.element_ty), mask=mask)
    else:
        at = ((sequence * tl.num_programs(1) * GROUP + heads) * SPLITS + split).to(tl.int64)
        tl.store(highest + at, high_G, mask=g < GROUP)
        tl.store(weight + at, total_G, mask=g < GROUP)
        tl.store(partial + at[:, None] * VALUE + dv[None, :], sums_GV, mask=mask)


@triton.jit
def merge_kernel(
    out,
    partial,
    highest,
    weight,
    starts,
    out_token,
    SPLITS: tl.constexpr,
    VALUE: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """The splits of one query head as one answer; grid (sequences, query heads)."""
    sequence = tl.program_id(0)
    head = tl.program_id(1)
    row = tl.load(starts + sequence).to(tl.int64)
    if tl.load(starts + sequence + 1) - row != 1:
        return
    s = tl.arange(0, SPLITS)
    d = tl.arange(0, BLOCK_V)
    at = ((sequence * tl.num_programs(1) + head) * SPLITS + s).to(tl.int64)
    high = tl.load(highest + at)
    most = tl.max(high, 0)
    # A sequence of padding has no tokens: all its splits are empty, and so is what is written.
    factor = tl.where(high == float("-inf"), 0.0, tl.exp(high - tl.where(most == float("-inf"), 0.0, most)))
    total = tl.sum(tl.load(weight + at) * factor, 0)
    sums = tl.load(partial + at[:, None] * VALUE + d[None, :], mask=d[None, :] < VALUE, other=0.0)
    answer = tl.sum(sums * factor[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    tl.store(out + row * out_token + head * VALUE + d, answer.to(out.dtype.element_ty), mask=d < VALUE)
