"""The tables. What each column means is said by the domain's field of the same name."""

from trellis.server.store.tables.accounts import api_keys, tenants
from trellis.server.store.tables.adapters import adapter_shares, adapters, aliases, exports
from trellis.server.store.tables.data import base_models, dataset_versions, datasets, reports, upload_parts, uploads
from trellis.server.store.tables.jobs import (
    attempts,
    checkpoints,
    job_events,
    job_logs,
    job_metrics,
    trainers,
    tuning_jobs,
)
from trellis.server.store.tables.ledger import holds, ledger_entries, rate_buckets, usage_days, usage_hours
from trellis.server.store.tables.metadata import metadata
from trellis.server.store.tables.platform import audit_events, leases, least_revision, requests
from trellis.server.store.tables.scheduling import fair_shares, reservations, scheduler_board

__all__ = [
    "adapter_shares",
    "adapters",
    "aliases",
    "api_keys",
    "attempts",
    "audit_events",
    "base_models",
    "checkpoints",
    "dataset_versions",
    "datasets",
    "exports",
    "fair_shares",
    "holds",
    "job_events",
    "job_logs",
    "job_metrics",
    "leases",
    "least_revision",
    "ledger_entries",
    "metadata",
    "rate_buckets",
    "reports",
    "requests",
    "reservations",
    "scheduler_board",
    "tenants",
    "trainers",
    "tuning_jobs",
    "upload_parts",
    "uploads",
    "usage_days",
    "usage_hours",
]
