"""Names of resources, such as `tenants/acme/adapters/0f3a`: the only place that takes them apart or puts them together."""

import re
from dataclasses import dataclass, fields
from typing import ClassVar, Self

from trellis.errors import InvalidArgument, Reason

_ID = r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?"
_MODEL_ID = r"[a-z0-9](?:[a-z0-9._-]{0,98}[a-z0-9])?"
_HEX = r"[0-9a-f]"
_PATTERNS = {
    "tenant": _ID,
    "dataset": _ID,
    "tuning_job": _ID,
    "alias": _ID,
    "api_key": _ID,
    "export": _ID,
    "cohort": _ID,
    "base_model": _MODEL_ID,
    "version": rf"(?:{_HEX}{{64}}|latest)",
    "adapter": rf"{_HEX}{{24}}",
    "checkpoint": r"(?:0|[1-9][0-9]{0,11})",
}
_RULES = {
    "base_model": "1 to 100 of a-z, 0-9, '.', '_' and '-', beginning and ending with a letter or digit",
    "version": "the file's sha256 as 64 hexadecimal digits, or 'latest'",
    "adapter": "24 hexadecimal digits",
    "checkpoint": "a step, as a whole number",
}
_ID_RULE = "1 to 63 of a-z, 0-9 and '-', beginning with a letter, not ending with '-'"

LATEST = "latest"
PLATFORM = "platform"
ALL_TENANTS = "tenants/-"


def check_id(kind: str, value: str, field: str) -> str:
    """Return `value` if it may be the last part of a `kind`'s name; else raise InvalidArgument naming `field`."""
    if re.fullmatch(_PATTERNS[kind], value):
        return value
    rule = _RULES.get(kind, _ID_RULE)
    raise InvalidArgument.for_field(field, f"{value!r} can't be the id of a {kind}: it must be {rule}.")


@dataclass(frozen=True, slots=True)
class ResourceName:
    """A name that fits its kind's pattern; `str()` gives it back."""

    PATTERN: ClassVar[str]

    def __str__(self) -> str:
        return self.PATTERN.format(**{f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def parse(cls, name: str, field: str = "name") -> Self:
        """Take `name` apart; raise InvalidArgument (INVALID_NAME), naming the request's `field`, if it does not fit."""
        regex = re.sub(r"\{(\w+)\}", lambda m: f"(?P<{m[1]}>{_PATTERNS[m[1]]})", cls.PATTERN)
        match = re.fullmatch(regex, name)
        if match is None:
            message = f"{name!r} is not a name of the form {cls.PATTERN!r}."
            raise InvalidArgument.for_field(field, message, reason=Reason.INVALID_NAME)
        return cls(**match.groupdict())


@dataclass(frozen=True, slots=True)
class TenantName(ResourceName):
    """`tenants/{tenant}`."""

    PATTERN: ClassVar[str] = "tenants/{tenant}"
    tenant: str


@dataclass(frozen=True, slots=True)
class ApiKeyName(ResourceName):
    """`tenants/{tenant}/apiKeys/{api_key}`."""

    PATTERN: ClassVar[str] = "tenants/{tenant}/apiKeys/{api_key}"
    tenant: str
    api_key: str


@dataclass(frozen=True, slots=True)
class PlatformApiKeyName(ResourceName):
    """`platform/apiKeys/{api_key}`."""

    PATTERN: ClassVar[str] = "platform/apiKeys/{api_key}"
    api_key: str


@dataclass(frozen=True, slots=True)
class BaseModelName(ResourceName):
    """`baseModels/{base_model}`."""

    PATTERN: ClassVar[str] = "baseModels/{base_model}"
    base_model: str


@dataclass(frozen=True, slots=True)
class DatasetName(ResourceName):
    """`tenants/{tenant}/datasets/{dataset}`."""

    PATTERN: ClassVar[str] = "tenants/{tenant}/datasets/{dataset}"
    tenant: str
    dataset: str


@dataclass(frozen=True, slots=True)
class DatasetVersionName(ResourceName):
    """`tenants/{tenant}/datasets/{dataset}/versions/{version}`."""

    PATTERN: ClassVar[str] = "tenants/{tenant}/datasets/{dataset}/versions/{version}"
    tenant: str
    dataset: str
    version: str

    @property
    def dataset_name(self) -> DatasetName:
        """The dataset's name."""
        return DatasetName(self.tenant, self.dataset)


@dataclass(frozen=True, slots=True)
class DatasetReportName(ResourceName):
    """`tenants/{tenant}/datasets/{dataset}/versions/{version}/report`."""

    PATTERN: ClassVar[str] = "tenants/{tenant}/datasets/{dataset}/versions/{version}/report"
    tenant: str
    dataset: str
    version: str

    @property
    def version_name(self) -> DatasetVersionName:
        """The version's name."""
        return DatasetVersionName(self.tenant, self.dataset, self.version)


@dataclass(frozen=True, slots=True)
class TuningJobName(ResourceName):
    """`tenants/{tenant}/tuningJobs/{tuning_job}`."""

    PATTERN: ClassVar[str] = "tenants/{tenant}/tuningJobs/{tuning_job}"
    tenant: str
    tuning_job: str


@dataclass(frozen=True, slots=True)
class CheckpointName(ResourceName):
    """`tenants/{tenant}/tuningJobs/{tuning_job}/checkpoints/{checkpoint}`."""

    PATTERN: ClassVar[str] = "tenants/{tenant}/tuningJobs/{tuning_job}/checkpoints/{checkpoint}"
    tenant: str
    tuning_job: str
    checkpoint: str


@dataclass(frozen=True, slots=True)
class AdapterName(ResourceName):
    """`tenants/{tenant}/adapters/{adapter}`."""

    PATTERN: ClassVar[str] = "tenants/{tenant}/adapters/{adapter}"
    tenant: str
    adapter: str

    @classmethod
    def for_digest(cls, tenant: str, digest: str) -> Self:
        """The name of the tenant's adapter whose manifest has this sha256, in hex."""
        return cls(tenant, digest[:24])


@dataclass(frozen=True, slots=True)
class ExportName(ResourceName):
    """`tenants/{tenant}/exports/{export}`."""

    PATTERN: ClassVar[str] = "tenants/{tenant}/exports/{export}"
    tenant: str
    export: str


@dataclass(frozen=True, slots=True)
class AliasName(ResourceName):
    """`tenants/{tenant}/aliases/{alias}`."""

    PATTERN: ClassVar[str] = "tenants/{tenant}/aliases/{alias}"
    tenant: str
    alias: str


def tenant_of(name: str) -> str | None:
    """The tenant that a name belongs to, or None for the platform's own; says nothing of the rest of the name."""
    match = re.match(rf"tenants/({_ID})(?:/|$)", name)
    return match[1] if match else None
