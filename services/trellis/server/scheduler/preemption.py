"""Which running jobs give way to one that waits.

A job has others preempted by one of two rights. *Reclaim*: its tenant stays within its nominal quota, and takes back from
tenants of its cohort who are beyond theirs. *Priority*: its own is beyond 0 and higher than theirs; but what a tenant has
within a nominal quota gives way only to who stays within one too, or to jobs of its own. Each right leads upwards in the
order (within the nominal quota, priority), so that who was preempted has no right over who displaced it. Never between
equals, for fairness alone.

Chosen are jobs that lose least since their last checkpoints, none that could be spared, and all or none: nobody leaves if
that would not let the job start. A job is left alone until it has run for a while, and once it has given way so many times.
"""

from collections.abc import Container, Iterable, Sequence

from trellis.server.scheduler.accounts import Accounts
from trellis.server.scheduler.candidates import Candidate, Part, candidates
from trellis.server.scheduler.capacity import ROUNDING, Resources
from trellis.server.scheduler.decisions import Preemption
from trellis.server.scheduler.prospect import Prospect, Wish
from trellis.server.scheduler.snapshot import Snapshot

_TRIES = 32
"""For so many jobs victims are looked for in one decision."""


class Victims:
    """Looks for those who give way to one job after the other."""

    def __init__(self, snapshot: Snapshot, accounts: Accounts) -> None:
        self._snapshot = snapshot
        self._accounts = accounts
        self._candidates: Sequence[Candidate] | None = None
        self.gone: set[str] = set()
        """Those that were asked in this decision, by uid."""
        self._failed: list[Wish] = []
        self._tries = _TRIES

    def give_way_to(self, wish: Wish, in_sight: Resources, stay: Container[str]) -> Sequence[Candidate]:
        """Who gives way, with what is in sight for the job anyway; none if nobody has to, or if it would not do. Some
        trainers stay."""
        if not Prospect(wish, in_sight).needs_victims or self._tries == 0 or self._has_failed(wish):
            return ()
        self._tries -= 1
        left = [one for one in self._left() if one.trainer not in stay]
        capacity = self._snapshot.capacity
        by_size = sorted(left, key=lambda one: one.loss / max(one.frees.share_of(capacity), ROUNDING))
        plans = [plan for order in (left, by_size) if (plan := _enough(Prospect(wish, in_sight), order))]
        if not plans:
            self._failed.append(wish)
            return ()
        best = min(plans, key=lambda plan: (sum(one.loss for one in plan), len(plan)))
        for part in (part for one in best for part in one.parts):
            self.gone.add(part.job.uid)
            self._accounts.leaves(part.job)
        return best

    def _left(self) -> Sequence[Candidate]:
        if self._candidates is None:
            self._candidates = candidates(self._snapshot, self._accounts)
        if not self.gone:
            return self._candidates
        return [one for one in self._candidates if not any(part.job.uid in self.gone for part in one.parts)]

    def _has_failed(self, wish: Wish) -> bool:
        """Whether nobody was found for a job that needs less and has at least the same rights."""
        return any(failed.is_easier_than(wish) for failed in self._failed)


def _enough(prospect: Prospect, order: Iterable[Candidate]) -> list[Candidate]:
    """The first of them that do, without any that can be spared; none if all of them don't."""
    chosen: list[Candidate] = []
    leaving: set[str] = set()
    for one in order:
        if prospect.is_enough():
            break
        uids = {part.job.uid for part in one.parts}
        if prospect.is_helped_by(one) and prospect.may_displace(one) and not uids & leaving:
            prospect.add(one)
            chosen.append(one)
            leaving |= uids
    if not prospect.is_enough():
        return []
    for one in sorted(chosen, key=lambda one: one.loss, reverse=True):
        prospect.add(one, back=True)
        if prospect.is_enough():
            chosen.remove(one)
        else:
            prospect.add(one)
    return chosen


def preemptions(wish: Wish, victims: Sequence[Candidate]) -> list[Preemption]:
    """What is asked of them, with a sentence for their users."""
    return [Preemption(part.job.uid, wish.job.uid, _why(wish, part)) for one in victims for part in one.parts]


def _why(wish: Wish, part: Part) -> str:
    if wish.job.priority > max(0, part.job.priority):
        return "It gives way to a job with a higher priority, and goes on when there is capacity again."
    return "It gives back accelerators that its tenant has borrowed, and goes on when there is capacity again."
