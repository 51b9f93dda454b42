"""What of each resource the audit trail shows: fields chosen one by one, so that no secret gets there by being new."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum, IntEnum
from typing import Any, Final

from trellis.names import AdapterName, AliasName, ApiKeyName, DatasetName, PlatformApiKeyName, TenantName
from trellis.server.domain.adapter import Adapter, AdapterShare, Alias
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.blanking import blanked
from trellis.server.domain.caller import ApiKey
from trellis.server.domain.dataset import Dataset, DatasetVersion
from trellis.server.domain.export import Export
from trellis.server.domain.tenant import Tenant
from trellis.server.domain.tuning_job import Checkpoint, TuningJob

Audited = (
    Tenant
    | ApiKey
    | BaseModel
    | Dataset
    | DatasetVersion
    | TuningJob
    | Checkpoint
    | Adapter
    | Alias
    | AdapterShare
    | Export
)
_MAX_TEXT: Final = 200
_MAX_ITEMS: Final = 50
_SHOWN: Final[Mapping[type, tuple[str, ...]]] = {
    Tenant: ("display_name", "serving_weight", "training_weight", "cohort", "quota"),
    ApiKey: ("display_name", "role", "scopes", "expire_time", "revoke_time", "rotate_time", "old_secret_expire_time"),
    BaseModel: ("display_name", "source", "revision", "architecture", "is_default"),
    Dataset: ("display_name", "latest_sha256"),
    DatasetVersion: ("filename", "file_format", "size_bytes", "base_model"),
    TuningJob: ("display_name", "state", "priority", "alias_id", "deploy", "adapter_digest", "export_id"),
    Checkpoint: ("pinned",),
    Adapter: ("digest", "display_name", "base_model", "tuning_job", "rank", "size_bytes", "deployment"),
    Alias: ("adapter_digest",),
    AdapterShare: ("tenant",),
    Export: ("display_name", "source", "base_model", "format", "state"),
}
_SHOWN_OF_SPEC: Final = ("base_model", "training_dataset", "validation_dataset", "initial_adapter")
_NAMES: Final[Mapping[type, Callable[[Any], str]]] = {
    Tenant: lambda tenant: str(TenantName(tenant.tenant_id)),
    ApiKey: lambda key: str(ApiKeyName(key.tenant, key.key_id) if key.tenant else PlatformApiKeyName(key.key_id)),
    Dataset: lambda dataset: str(DatasetName(dataset.tenant, dataset.dataset_id)),
    Alias: lambda alias: str(AliasName(alias.tenant, alias.alias_id)),
    AdapterShare: lambda share: str(AdapterName.for_digest(share.owner, share.digest)),
}


def described(resource: Audited | None) -> str:
    """The resource's name."""
    name_of = _NAMES.get(type(resource))
    return name_of(resource) if name_of else str(getattr(resource, "name"))  # noqa: B009 - not all of them have one


def changes(before: Audited | None, after: Audited | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields that differ, as they were and as they are; all that say something for what is new or gone."""
    was, now_is = _shown(before), _shown(after)
    differ = {name for name in was | now_is if was.get(name) != now_is.get(name)}
    return _only(was, differ), _only(now_is, differ)


def _only(values: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}


def _shown(resource: Audited | None) -> dict[str, Any]:
    if resource is None:
        return {}
    found: dict[str, Any] = {}
    for name in _SHOWN[type(resource)]:
        _add(found, name, getattr(resource, name))
    if isinstance(resource, TuningJob):
        for name in _SHOWN_OF_SPEC:
            _add(found, name, getattr(resource.spec, name))
    return found


def _add(found: dict[str, Any], name: str, value: Any) -> None:
    """Add what says something; what a value is made of gets dotted names, so that only what changed of it is told."""
    if is_dataclass(value):
        for field in fields(value):
            _add(found, f"{name}.{field.name}", getattr(value, field.name))
    elif value not in (None, "", (), frozenset()):
        found[name] = _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, IntEnum):
        return value.name
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        whole = blanked(value)
        return whole if len(whole) <= _MAX_TEXT else whole[:_MAX_TEXT] + "…"
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (tuple, list, frozenset)):
        return [_plain(item) for item in (sorted(value) if isinstance(value, frozenset) else value)][:_MAX_ITEMS]
    return value
