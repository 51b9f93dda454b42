"""Which replica answers a call: one that holds the call's adapter, unless another one is much less busy.

Ray copies this module by value into Serve's proxies, which may have nothing of ours installed: it imports Ray alone.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import sample
from typing import Any, Final

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

MAX_DIGESTS: Final = 1024
"""Of each kind that a replica names: Serve's controller sends them to every proxy."""
_DIGITS: Final = 16
_SLACK: Final = 16


@dataclass(frozen=True)
class Standing:
    """How a replica stands to a call."""

    replica: str
    """Its id."""
    load: int
    """Calls that it has now."""
    in_bank: bool = False
    """Whether the call's adapter is beside the base."""
    in_memory: bool = False
    """Whether it is in the host's memory."""


def residency(bank: Collection[str], memory: Collection[str]) -> dict[str, Any]:
    """What a replica tells of its adapters, by digest: few bytes of each, and of no more than Serve can carry."""
    return {"bank": _short(bank), "memory": _short(memory)}


def standing(replica: str, load: int, adapter: str, told: Any) -> Standing:
    """How the replica stands that told this of its adapters; `adapter` is a digest, or empty for the base alone."""
    known = told if isinstance(told, dict) else {}
    prefix = adapter[:_DIGITS]
    in_bank, in_memory = (bool(prefix) and prefix in known.get(kind, ()) for kind in ("bank", "memory"))
    return Standing(replica, load, in_bank, in_memory)


def rank(standings: Sequence[Standing], adapter: str, slack: int) -> list[list[str]]:
    """The replicas' ids, the best ones first; among those of one rank the least busy one is taken.

    An adapter stays where it is in the bank. Where it is in no bank, all proxies choose alike without asking each other:
    by rendezvous hashing, the host's memory first, for the next calls come before Serve has told them what is where.
    Who has `slack` calls more than the least busy one is left for last, so that a hot adapter spreads.
    """
    if not standings:
        return []
    most = min(standing.load for standing in standings) + slack
    free = [standing for standing in standings if standing.load <= most]
    busy = [standing.replica for standing in standings if standing.load > most]
    if not adapter:
        return [[standing.replica for standing in free], busy]
    resident = [standing.replica for standing in free if standing.in_bank]
    others = sorted((s for s in free if not s.in_bank), key=lambda s: (not s.in_memory, _weight(s.replica, adapter)))
    return [resident, *([standing.replica] for standing in others), busy]


class AdapterRouter(RequestRouter):
    """Serve's way to ask; the adapter's digest comes as the call's session id (see ADR 0006)."""

    _slack = _SLACK

    def initialize_state(self, **kwargs: Any) -> None:
        """Take the settings of the deployment."""
        self._slack = int(kwargs.get("slack", _SLACK))

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The candidates by rank."""
        adapter = ""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # or Serve asks again at once, and again
            adapter = pending_request.metadata.session_id
        # Shuffled, so that equals are not always asked in one order.
        candidates = {r.replica_id.unique_id: r for r in sample(candidate_replicas, len(candidate_replicas))}
        load: Callable[[Any], int | None] = self.replica_queue_len_cache.get
        standings = [
            standing(unique_id, load(replica.replica_id) or 0, adapter, replica.routing_stats)
            for unique_id, replica in candidates.items()
        ]
        return [[candidates[unique_id] for unique_id in ids] for ids in rank(standings, adapter, self._slack)]


def _short(digests: Collection[str]) -> list[str]:
    """Sorted, so that the same adapters are the same news; of too many the last ones, which were used last."""
    return sorted(digest[:_DIGITS] for digest in list(digests)[-MAX_DIGESTS:])


def _weight(replica: str, adapter: str) -> bytes:
    return blake2b(f"{replica} {adapter}".encode(), digest_size=8).digest()
