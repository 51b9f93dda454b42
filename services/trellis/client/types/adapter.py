"""Adapters and aliases."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class Deployment(StrEnum):
    """Whether an adapter can be called."""

    UNSPECIFIED = "UNSPECIFIED"
    UNDEPLOYED = "UNDEPLOYED"
    DEPLOYING = "DEPLOYING"
    DEPLOYED = "DEPLOYED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter, known by the digest of its manifest; lists leave the manifest out."""

    name: str
    display_name: str
    digest: str
    base_model: str
    tuning_job: str
    rank: int
    target_modules: tuple[str, ...]
    size_bytes: int
    manifest: Mapping[str, Any] | None
    deployment: Deployment
    deployment_message: str
    create_time: datetime | None
    etag: str


@dataclass(frozen=True, slots=True)
class AdapterShare:
    """That another tenant may call an adapter."""

    adapter: str
    tenant: str
    """`tenants/{tenant}` that may call it; whether there is such a tenant is not said."""
    create_time: datetime | None
    """When it was last shared."""


@dataclass(frozen=True, slots=True)
class Alias:
    """A name for an adapter, which may move."""

    name: str
    adapter: str
    update_time: datetime | None
    etag: str
