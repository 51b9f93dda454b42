"""Keys in the object store: made of ids that were checked, never taken from a request."""

TENANTS = "tenants"
"""All that tenants have."""


def tenant_prefix(tenant: str) -> str:
    """All that a tenant has."""
    return f"{TENANTS}/{tenant}"


def dataset_prefix(tenant: str, dataset_id: str) -> str:
    """A dataset's files and reports."""
    return f"tenants/{tenant}/datasets/{dataset_id}"


def version_key(tenant: str, dataset_id: str, sha256: str) -> str:
    """A version's file."""
    return f"{dataset_prefix(tenant, dataset_id)}/{sha256}/data"


def uploads_prefix(tenant: str, dataset_id: str) -> str:
    """The parts of all uploads to a dataset."""
    return f"tenants/{tenant}/uploads/{dataset_id}"


def upload_prefix(tenant: str, dataset_id: str, sha256: str) -> str:
    """The parts of one upload."""
    return f"{uploads_prefix(tenant, dataset_id)}/{sha256}"


def part_key(tenant: str, dataset_id: str, sha256: str, offset: int, part_id: str) -> str:
    """A part of an upload; streams that compete for the same offset write different ones."""
    return f"{upload_prefix(tenant, dataset_id, sha256)}/{offset:020d}-{part_id}"


def job_prefix(tenant: str, uid: str) -> str:
    """What a job keeps beside its adapter."""
    return f"tenants/{tenant}/jobs/{uid}"


def checkpoint_prefix(tenant: str, uid: str) -> str:
    """A job's checkpoints."""
    return f"{job_prefix(tenant, uid)}/checkpoints"


def attempt_adapter_prefix(tenant: str, uid: str, attempt: int) -> str:
    """The adapter that an attempt makes; no other attempt writes there."""
    return f"tenants/{tenant}/adapters/{uid}-{attempt}"


def attempt_model_prefix(tenant: str, uid: str, attempt: int) -> str:
    """The whole model that an attempt of a job makes which trains all weights; no other attempt writes there."""
    return f"tenants/{tenant}/models/{uid}-{attempt}"


def promoted_prefix(tenant: str, uid: str, step: int, attempt: int) -> str:
    """The adapter that is made of a checkpoint."""
    return f"tenants/{tenant}/adapters/checkpoint-{uid}-{step}.{attempt}"


def import_prefix(tenant: str, import_id: str) -> str:
    """An imported adapter."""
    return f"tenants/{tenant}/adapters/import-{import_id}"


def export_prefix(tenant: str, uid: str) -> str:
    """A whole model that is made on request."""
    return f"tenants/{tenant}/exports/{uid}"
