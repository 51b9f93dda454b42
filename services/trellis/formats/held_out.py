"""Which examples are held out for evaluation: the same ones whenever and wherever it is asked.

Each example has a score that depends on its content and the seed only. The `k` examples with the smallest scores are held
out, where k is the fraction of the *distinct* examples, rounded. So the split does not depend on the order of the lines,
and exact duplicates are always on the same side. With a fraction above 0 and at least two distinct examples, at least
one is held out and at least one is left to train on; with fewer than two, none is held out.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from trellis.formats.digests import DigestSet

_BUCKET_BITS = 12
_BUCKET_SHIFT = 64 - _BUCKET_BITS


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The rule of one split; made by :func:`choose_held_out`, and small enough to be kept with a dataset."""

    seed: int
    threshold: int

    def holds(self, digest: int) -> bool:
        """Whether the example with this digest is held out."""
        return _score(digest or 1, self.seed) < self.threshold


def choose_held_out(digests: Iterable[int], fraction: float, seed: int) -> HeldOut:
    """The rule that holds out `fraction` (0 to less than 1) of the examples with these digests.

    Raises ValueError for a fraction outside of that.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the fraction to hold out is {fraction}, but must be at least 0 and less than 1")
    distinct = digests if isinstance(digests, DigestSet) else _distinct(digests)
    if fraction == 0 or len(distinct) < 2:
        return HeldOut(seed, 0)
    k = min(max(round(fraction * len(distinct)), 1), len(distinct) - 1)
    return HeldOut(seed, _kth_smallest(distinct, seed, k) + 1)


def _distinct(digests: Iterable[int]) -> DigestSet:
    found = DigestSet()
    for digest in digests:
        found.add(digest)
    return found


def _score(digest: int, seed: int) -> int:
    keyed = hashlib.blake2b(digest.to_bytes(8, "big"), digest_size=8, key=str(seed).encode()[:64])
    return int.from_bytes(keyed.digest(), "big")


def _kth_smallest(digests: DigestSet, seed: int, k: int) -> int:
    """The k-th smallest score, found without holding them all: first its bucket by leading bits, then inside of it."""
    sizes = array("Q", bytes(8 << _BUCKET_BITS))
    for score in _scores(digests, seed):
        sizes[score >> _BUCKET_SHIFT] += 1
    bucket = 0
    while sizes[bucket] < k:
        k -= sizes[bucket]
        bucket += 1
    return sorted(score for score in _scores(digests, seed) if score >> _BUCKET_SHIFT == bucket)[k - 1]


def _scores(digests: DigestSet, seed: int) -> Iterator[int]:
    return (_score(digest, seed) for digest in digests)
