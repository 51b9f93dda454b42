"""What would be if some running jobs had left: whether a job that waits could start, and whom it has a right to displace."""

from collections import defaultdict
from dataclasses import dataclass

from trellis.server.scheduler.accounts import Account, Claim
from trellis.server.scheduler.candidates import Candidate, Part
from trellis.server.scheduler.capacity import ROUNDING, Resources
from trellis.server.scheduler.cohorts import QuotaLine
from trellis.server.scheduler.snapshot import QueuedJob


@dataclass(frozen=True, slots=True)
class Wish:
    """A queued job, and what it lacks."""

    job: QueuedJob
    account: Account
    claim: Claim
    needs: Resources
    """To be free for it; nothing if it needs a place on a trainer."""
    trainers: frozenset[str] = frozenset()
    """On which a place would do for it, if it needs one."""

    @property
    def kind(self) -> str:
        """Jobs of the same kind have rights over the same others, but for their priorities."""
        is_bound = self.account.line.nominal is not None or self.account.running >= self.account.limit
        return self.job.tenant if is_bound else ""

    def is_easier_than(self, other: "Wish") -> bool:
        """Whether the other one has no more rights, and needs no less."""
        return (
            self.job.priority >= other.job.priority
            and self.kind == other.kind
            and self.needs.fits_into(other.needs)
            and self.claim.accelerators <= other.claim.accelerators + ROUNDING
            and self.trainers >= other.trainers
        )


class Prospect:
    """Those that were asked to leave have left, and those that are added too."""

    def __init__(self, wish: Wish, in_sight: Resources) -> None:
        self._wish = wish
        self._line = wish.account.line
        self._free = in_sight
        self._places = 0
        self._own = 0
        """How many of the tenant's own have left."""
        self._gone: dict[QuotaLine, float] = defaultdict(float)
        cohort = self._line.cohort
        self._lent = cohort.lent_without_leaving if cohort is not None else 0.0
        self._promised = wish.account.is_promised(wish.job.uid)

    def is_enough(self) -> bool:
        """Whether the job could start."""
        return self._has_capacity and self._has_place and self._within_limit and self._within_quota and self._in_cohort

    @property
    def needs_victims(self) -> bool:
        """Whether the job could not start, and has a right over some others."""
        has_right = self._wish.job.priority > 0 or (self._is_guaranteed and self._line.cohort is not None)
        return has_right and not self.is_enough()

    def add(self, candidate: Candidate, *, back: bool = False) -> None:
        """It has left, or it stays after all."""
        sign = -1 if back else 1
        frees = candidate.frees
        self._free = self._free.minus(frees) if back else self._free.plus(frees)
        self._places += sign * (candidate.place in self._wish.trainers)
        for part in candidate.parts:
            line = part.account.line
            self._own += sign * (part.account is self._wish.account)
            before = self._used(line)
            self._gone[line] += sign * part.accelerators
            if line.cohort is not None and line.cohort is self._line.cohort:
                self._lent += line.beyond_kept(self._used(line)) - line.beyond_kept(before)

    def is_helped_by(self, candidate: Candidate) -> bool:
        """Whether it frees something that is still lacking."""
        if not self._has_place:
            return candidate.place in self._wish.trainers
        needs, free, frees = self._wish.needs, self._free, candidate.frees
        if needs.cpus > free.cpus + ROUNDING and frees.cpus > 0:
            return True
        if needs.gpus > free.gpus + ROUNDING and frees.gpus > 0:
            return True
        return not candidate.trainer and self._frees_quota(candidate.parts[0])

    def may_displace(self, candidate: Candidate) -> bool:
        """Whether the job has a right over it."""
        return all(self._may_displace(part) for part in candidate.parts)

    def _may_displace(self, part: Part) -> bool:
        if part.account is self._wish.account:
            return self._has_priority_over(part)
        line, used = part.account.line, self._used(part.account.line)
        if self._has_priority_over(part):
            keeps_its_own = line.nominal is None or used - part.accelerators >= line.nominal - ROUNDING
            if keeps_its_own or self._is_guaranteed:
                return True
        is_beyond = line.nominal is not None and used > line.nominal + ROUNDING
        return self._reclaims_from(part) and is_beyond

    def _reclaims_from(self, part: Part) -> bool:
        """Whether the other tenant is to give back what it borrowed of this one."""
        cohort = self._line.cohort
        return cohort is not None and part.account.line.cohort is cohort and self._is_guaranteed

    def _has_priority_over(self, part: Part) -> bool:
        return self._wish.job.priority > max(0, part.job.priority)

    def _frees_quota(self, part: Part) -> bool:
        if part.account is self._wish.account:
            return not (self._within_limit and self._within_quota and self._in_cohort)
        line = part.account.line
        return not self._in_cohort and line.cohort is self._line.cohort and line.beyond_kept(self._used(line)) > 0

    @property
    def _has_capacity(self) -> bool:
        return self._wish.needs.fits_into(self._free)

    @property
    def _has_place(self) -> bool:
        return not self._wish.trainers or self._places > 0

    @property
    def _within_limit(self) -> bool:
        account = self._wish.account
        return account.running - account.leaving - self._own + self._promised < account.limit

    @property
    def _within_quota(self) -> bool:
        return self._used(self._line) + self._more <= self._line.most + ROUNDING

    @property
    def _in_cohort(self) -> bool:
        line, used = self._line, self._used(self._line)
        if line.cohort is None:
            return True
        more = line.beyond_kept(used + self._more) - line.beyond_kept(used)
        promised = 0.0 if line.cohort.promised_to is line else line.cohort.promised
        return more <= 0 or self._lent + promised + more <= line.cohort.lendable + ROUNDING

    @property
    def _is_guaranteed(self) -> bool:
        """Whether the tenant stays within its nominal quota."""
        nominal = self._line.nominal
        return nominal is not None and self._used(self._line) + self._more <= nominal + ROUNDING

    @property
    def _more(self) -> float:
        return self._wish.claim.accelerators + self._line.promised * self._promised

    def _used(self, line: QuotaLine) -> float:
        return line.used - line.leaving - self._gone.get(line, 0.0)
