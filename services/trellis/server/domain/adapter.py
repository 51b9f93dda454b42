"""Adapters and the aliases that point at them."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Deployment(StrEnum):
    """Whether an adapter can be called. UNDEPLOYED is also what is wanted of it; the rest is on the way or there."""

    UNDEPLOYED = "UNDEPLOYED"
    DEPLOYING = "DEPLOYING"
    DEPLOYED = "DEPLOYED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter; known by its manifest's sha256, never changed but for its deployment."""

    tenant: str
    digest: str
    display_name: str
    base_model: str
    """The base model's resource name."""
    tuning_job: str
    """The job's resource name; empty for an imported one."""
    rank: int
    target_modules: tuple[str, ...]
    size_bytes: int
    key: str
    """Its folder in the object store."""
    manifest_json: str
    create_time: datetime
    deployment: Deployment = Deployment.UNDEPLOYED
    deployment_message: str = ""
    revision: int = 1

    @property
    def adapter_id(self) -> str:
        """The last part of its name."""
        return self.digest[:24]

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"tenants/{self.tenant}/adapters/{self.adapter_id}"


@dataclass(frozen=True, slots=True)
class Alias:
    """A name that points at an adapter."""

    tenant: str
    alias_id: str
    adapter_digest: str
    update_time: datetime
    revision: int = 1


@dataclass(frozen=True, slots=True)
class AdapterShare:
    """That a tenant may call another's adapter."""

    owner: str
    """The tenant whose adapter it is."""
    digest: str
    tenant: str
    """Who may call it."""
    create_time: datetime
