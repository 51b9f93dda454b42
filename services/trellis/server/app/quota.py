"""Whether a tenant's quota has room for more: asked under a lock on the tenant's row, so that of calls which come at once
on several servers no more are let through than there is room for.

Whoever needs other rows too locks the tenant's first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from trellis.errors import QuotaViolation, Reason, error_for
from trellis.names import TenantName
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.quota_errors import metadata_of, never_fits
from trellis.server.app.tenants import present_tenant
from trellis.server.domain.tenant import Tenant

_RETRY_SECONDS: Final = 30.0
"""After so long a job may have ended."""


@dataclass(frozen=True, slots=True)
class _Words:
    """How a limit is spoken of."""

    of: str
    """What is counted, after a number."""
    cure: str
    """What makes room."""
    retry_after: float | None = None
    """Where time alone can make room."""


_WORDS: Final[Mapping[str, _Words]] = {
    "open_jobs": _Words("jobs that have not ended", "One that ends makes room.", _RETRY_SECONDS),
    "dataset_bytes": _Words("bytes of datasets, unfinished uploads included", "Delete what is no longer needed."),
    "artifact_bytes": _Words(
        "bytes of adapters, exports and checkpoints, exports that are being made included",
        "Delete what is no longer needed.",
    ),
    "deployed_adapters": _Words("deployed adapters", "Undeploy one first."),
}


async def limited_tenant(unit: UnitOfWork, tenant_id: str, *limits: str) -> Tenant:
    """The tenant; locked to the end of the unit of work, if its quota sets one of these limits. Raises NotFound."""
    tenant = await present_tenant(unit, tenant_id)
    return await present_tenant(unit, tenant_id, for_update=True) if is_limited(tenant, *limits) else tenant


def is_limited(tenant: Tenant, *limits: str) -> bool:
    """Whether the tenant's quota sets one of these limits."""
    return any(getattr(tenant.quota, limit) is not None for limit in limits)


async def require_job(unit: UnitOfWork, tenant: Tenant) -> None:
    """Raise QUOTA_EXCEEDED if the tenant may have no further job, or keeps as many bytes as it may."""
    allowed = tenant.quota.open_jobs
    if allowed is not None:
        _require(tenant, "open_jobs", allowed, await unit.used.open_jobs(tenant.tenant_id, allowed), 1)
    await require_artifact(unit, tenant)


async def require_dataset(unit: UnitOfWork, tenant: Tenant, size_bytes: int) -> None:
    """Raise QUOTA_EXCEEDED if the tenant has no room for a file of this size."""
    allowed = tenant.quota.dataset_bytes
    if allowed is not None:
        used = await unit.used.dataset_bytes(tenant.tenant_id)
        _require(tenant, "dataset_bytes", allowed, used.total, size_bytes)


async def require_artifact(unit: UnitOfWork, tenant: Tenant, size_bytes: int = 1) -> None:
    """Raise QUOTA_EXCEEDED if the tenant has no room for so many bytes; for any at all, where nobody can say how many."""
    allowed = tenant.quota.artifact_bytes
    if allowed is not None:
        used = await unit.used.artifact_bytes(tenant.tenant_id)
        _require(tenant, "artifact_bytes", allowed, used.total, size_bytes)


async def require_deployment(unit: UnitOfWork, tenant: Tenant) -> None:
    """Raise QUOTA_EXCEEDED if the tenant may deploy no further adapter."""
    allowed = tenant.quota.deployed_adapters
    if allowed is not None:
        used = await unit.used.deployed_adapters(tenant.tenant_id, allowed)
        _require(tenant, "deployed_adapters", allowed, used, 1)


def _require(tenant: Tenant, limit: str, allowed: int, used: int, asked: int) -> None:
    if used + asked <= allowed:
        return
    words, subject = _WORDS[limit], str(TenantName(tenant.tenant_id))
    if asked > allowed:
        sentence = (
            f"{subject} may have {allowed:,} {words.of} in all, and this is {asked:,}; ask the platform's admins."
        )
        raise never_fits((QuotaViolation(subject, limit, allowed, used, asked, sentence),))
    more = f"; this would be {asked:,} more" if asked > 1 else ""
    sentence = f"{subject} has {used:,} of {allowed:,} {words.of}{more}. {words.cure}"
    violation = QuotaViolation(subject, limit, allowed, used, asked, sentence)
    raise error_for(
        Reason.QUOTA_EXCEEDED,
        sentence,
        metadata=metadata_of(violation),
        quota_violations=(violation,),
        retry_after=words.retry_after,
    )
