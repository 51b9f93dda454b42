"""What enforcing a quota asks of the database."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from trellis.server.domain.quota import Quota
from trellis.server.domain.rate import Bucket, RateKind


@dataclass(frozen=True, slots=True)
class Kept:
    """Bytes of one kind that a tenant has."""

    stored: int
    coming: int
    """Of uploads that are not finished and exports that are being made, whose size is estimated."""

    @property
    def total(self) -> int:
        """Both together."""
        return self.stored + self.coming


class UsedQuota(Protocol):
    """What a tenant uses of its quota, counted at the moment of asking: nothing is kept that could drift from the truth.

    Exact for whoever holds the tenant's row for update, as everybody does who adds to what is counted.
    """

    async def open_jobs(self, tenant: str, most: int) -> int:
        """Jobs that have not ended; counting stops at `most`."""
        ...

    async def running_jobs(self, tenant: str, most: int) -> int:
        """Jobs that hold capacity; counting stops at `most`."""
        ...

    async def deployed_adapters(self, tenant: str, most: int) -> int:
        """Adapters that are wanted to be callable; counting stops at `most`."""
        ...

    async def accelerators(self, tenant: str) -> float:
        """What its jobs that hold capacity take, by their estimates."""
        ...

    async def dataset_bytes(self, tenant: str) -> Kept:
        """Of its datasets' versions, and of uploads."""
        ...

    async def artifact_bytes(self, tenant: str) -> Kept:
        """Of its adapters, exports and checkpoints."""
        ...

    async def cohort(self, cohort: str) -> Mapping[str, Quota]:
        """By tenant: the quotas of a cohort's members."""
        ...


class RateBuckets(Protocol):
    """How much of their rates tenants may use at this moment, on all servers together."""

    async def lock(self, tenant: str, full: Mapping[RateKind, Bucket]) -> dict[RateKind, Bucket]:
        """The tenant's buckets, held to the end of this unit of work; those of `full` where there were none."""
        ...

    async def get(self, tenant: str) -> Mapping[RateKind, Bucket]:
        """The tenant's buckets, to be looked at."""
        ...

    async def put(self, tenant: str, buckets: Mapping[RateKind, Bucket]) -> None:
        """Adds or replaces."""
        ...
