"""Which of a batch's items each worker computes, and in which passes."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trellis_jobs.methods.objective import Items


@dataclass(frozen=True, slots=True)
class Passes:
    """A worker's groups of items, one a pass. All workers of a batch have equally many passes, as each is a collective
    of all; a worker that has run out of items has empty groups."""

    groups: tuple[tuple[int, ...], ...]


def spread(batch: Sequence[int], items: Items, workers: int, parts: int, pass_tokens: int) -> list[Passes]:
    """Deal a batch's items to workers: as even as can be by tokens, at most ⌈items / workers⌉ each.

    A worker's items are computed in at least `parts` passes (if it has so many items) of at most `pass_tokens` tokens,
    padding included, but for an item that is longer by itself. The answer depends on the arguments alone.
    """
    shares = _deal(batch, items, workers)
    grouped = [_group(share, items, parts, pass_tokens) for share in shares]
    count = max(1, *map(len, grouped))
    return [Passes(tuple(groups) + ((),) * (count - len(groups))) for groups in grouped]


def _deal(batch: Sequence[int], items: Items, workers: int) -> list[list[int]]:
    """The longest items first, each to the worker that has the fewest tokens and room for one more."""
    most = math.ceil(len(batch) / workers)
    shares: list[list[int]] = [[] for _ in range(workers)]
    tokens = [0] * workers
    for index in sorted(batch, key=lambda index: (-items.length(index), index)):
        worker = min((w for w in range(workers) if len(shares[w]) < most), key=lambda w: (tokens[w], w))
        shares[worker].append(index)
        tokens[worker] += items.length(index)
    return shares


def _group(share: Sequence[int], items: Items, parts: int, pass_tokens: int) -> list[tuple[int, ...]]:
    """Runs of items, which come longest first."""
    count = min(parts, len(share))
    bounds = [len(share) * number // count for number in range(count + 1)] if count else [0]
    return [group for begin, end in itertools.pairwise(bounds) for group in _cut(share[begin:end], items, pass_tokens)]


def _cut(run: Sequence[int], items: Items, pass_tokens: int) -> Iterator[tuple[int, ...]]:
    group: list[int] = []
    padded = 0  # tokens of the group's longest sequence, times the sequences of an item
    for index in run:
        if group and padded * (len(group) + 1) > pass_tokens:
            yield tuple(group)
            group = []
        if not group:
            rows = items.rows(index)
            padded = len(rows) * max(row.ids_T.numel() for row in rows)
        group.append(index)
    if group:
        yield tuple(group)
