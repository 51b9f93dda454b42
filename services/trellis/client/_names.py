"""Short names made whole: `support` becomes `tenants/acme/datasets/support` in a client that knows its tenant."""

import re
from dataclasses import dataclass

from trellis.errors import InvalidArgument

_ADAPTER_ID = re.compile(r"[0-9a-f]{24}")


@dataclass(frozen=True, slots=True)
class Names:
    """Makes names whole; a name with a slash is whole already, and whether it is right the server says."""

    tenant: str = ""

    def parent(self, tenant: str | None) -> str:
        """`tenants/{tenant}`, of the tenant given or else the client's own; raises InvalidArgument when there is none."""
        value = tenant or self.tenant
        if not value:
            message = "Which tenant? Give `tenant`, to the call or to the client, or set TRELLIS_TENANT."
            raise InvalidArgument.for_field("tenant", message)
        return value if "/" in value else f"tenants/{value}"

    def keys_parent(self, parent: str | None) -> str:
        """As `parent`, where `platform` is the platform's own keys."""
        return "platform" if parent == "platform" else self.parent(parent)

    def of(self, collection: str, name: str) -> str:
        """The whole name of one of the tenant's `datasets`, `tuningJobs`, `adapters`, `aliases`, `exports` or `apiKeys`."""
        return name if "/" in name else f"{self.parent(None)}/{collection}/{name}"

    def optional(self, collection: str, name: str) -> str:
        """As `of`; nothing stays nothing."""
        return self.of(collection, name) if name else ""

    def version(self, name: str) -> str:
        """A version's whole name; a dataset alone means its newest version, `support@{sha256}` a given one."""
        dataset, _, version = name.partition("@")
        whole = self.of("datasets", dataset)
        return whole if "/versions/" in whole else f"{whole}/versions/{version or 'latest'}"

    def dataset_or_version(self, name: str) -> str:
        """A dataset's whole name, or a version's for `support@{sha256}`."""
        return self.version(name) if "@" in name else self.optional("datasets", name)

    def checkpoint(self, name: str) -> str:
        """A checkpoint's whole name, of `{job}/checkpoints/{step}`."""
        return name if name.startswith("tenants/") else f"{self.parent(None)}/tuningJobs/{name}"

    def model(self, name: str) -> str:
        """What can be called: a short name is an adapter when it is one's id, else an alias."""
        return self.of("adapters" if _ADAPTER_ID.fullmatch(name) else "aliases", name)


def base_model_name(name: str) -> str:
    """A base model's whole name; nothing stays nothing."""
    return name if "/" in name or not name else f"baseModels/{name}"


def tenant_name(name: str) -> str:
    """A tenant's whole name."""
    return name if "/" in name else f"tenants/{name}"
