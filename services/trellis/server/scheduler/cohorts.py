"""The arithmetic of quotas: what is a tenant's own, what it may borrow, and what its cohort has left to lend.

As in Kueue, with cohorts in one level. Of a tenant's nominal accelerators, those beyond its lending limit are kept for it;
the others are lent while it does not use them. All tenants of a cohort together never use more beyond what is kept for
them than all lend.
"""

from dataclasses import dataclass, field
from math import inf

from trellis.server.domain.quota import Quota
from trellis.server.scheduler.capacity import ROUNDING


@dataclass(eq=False, slots=True)
class Cohort:
    """Tenants that lend each other what they don't use."""

    name: str
    members: "list[QuotaLine]" = field(default_factory=list)
    lendable: float = 0.0
    """What all of them lend."""
    lent: float = 0.0
    """Of that, what is used, by its owners too."""
    promised: float = 0.0
    """Of that, what is kept for the first job that waits for it."""
    promised_to: "QuotaLine | None" = None

    def has_left(self, more: float, line: "QuotaLine") -> bool:
        """Whether so much more of it may be used by a tenant; nothing more always may."""
        promised = 0.0 if self.promised_to is line else self.promised
        return more <= 0 or self.lent + promised + more <= self.lendable + ROUNDING

    @property
    def lent_without_leaving(self) -> float:
        """What will be used when those have left that were asked to."""
        return sum(line.beyond_kept(line.used - line.leaving) for line in self.members)


@dataclass(eq=False, slots=True)
class QuotaLine:
    """A tenant's accelerators: what it may use and what it does."""

    nominal: float | None = None
    """None does not bind."""
    kept: float = 0.0
    """Of the nominal ones, those that are never lent."""
    most: float = inf
    """With what it may borrow."""
    cohort: Cohort | None = None
    used: float = 0.0
    leaving: float = 0.0
    """Of those, what jobs have that were asked to leave."""
    promised: float = 0.0
    """What is kept for the tenant's first job that waits."""

    @classmethod
    def of(cls, quota: Quota, cohort: Cohort | None) -> "QuotaLine":
        """The line of a tenant, which becomes a member of the cohort if it has nominal accelerators."""
        nominal = quota.accelerators
        if nominal is None:
            return cls()
        if cohort is None:
            return cls(nominal, nominal, nominal)
        lent = nominal if quota.lending_limit is None else min(nominal, quota.lending_limit)
        borrowing = inf if quota.borrowing_limit is None else quota.borrowing_limit
        line = cls(nominal, nominal - lent, nominal + borrowing, cohort)
        cohort.members.append(line)
        cohort.lendable += lent
        return line

    def beyond_kept(self, used: float) -> float:
        """How much of a use is of what the cohort lends."""
        return max(0.0, used - self.kept)

    def charge(self, change: float) -> None:
        """So much more, or less, is used."""
        before, self.used = self.used, self.used + change
        if self.cohort is not None:
            self.cohort.lent += self.beyond_kept(self.used) - self.beyond_kept(before)

    def is_within(self, more: float = 0.0) -> bool:
        """Whether the tenant has a nominal quota and stays within it, with so many more."""
        return self.nominal is not None and self.used + more <= self.nominal + ROUNDING

    def own_allows(self, more: float, beside_promised: bool = False) -> bool:
        """Whether so many more are within what the tenant may have, beside what is kept for an earlier job."""
        return self.used + self.promised * beside_promised + more <= self.most + ROUNDING

    def cohort_allows(self, more: float, beside_promised: bool = False) -> bool:
        """Whether the cohort has so many left."""
        if self.cohort is None:
            return True
        return self.cohort.has_left(self._from_cohort(self.promised * beside_promised + more), self)

    def ever_allows(self, all_of_it: float) -> bool:
        """Whether a job of so many accelerators could run when no other does."""
        if all_of_it > self.most + ROUNDING:
            return False
        return self.cohort is None or self.beyond_kept(all_of_it) <= self.cohort.lendable + ROUNDING

    @property
    def largest(self) -> float:
        """The most that it can ever have."""
        return self.most if self.cohort is None else min(self.most, self.kept + self.cohort.lendable)

    def promise_from_cohort(self, accelerators: float) -> None:
        """Keep for a job that waits what it needs of the cohort, unless that is done for another one already."""
        cohort = self.cohort
        if cohort is not None and cohort.promised_to is None and (more := self._from_cohort(accelerators)) > 0:
            cohort.promised, cohort.promised_to = more, self

    def _from_cohort(self, more: float) -> float:
        """How much more of what the cohort lends would be used with so many more accelerators."""
        return self.beyond_kept(self.used + more) - self.beyond_kept(self.used)
