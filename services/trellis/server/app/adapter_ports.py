"""What is asked of the database about adapters, aliases, shares and exports."""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from trellis.names import AdapterName, AliasName
from trellis.server.domain.adapter import Adapter, AdapterShare, Alias, Deployment
from trellis.server.domain.export import Export, ExportState
from trellis.server.domain.page import Page
from trellis.wanted_adapters import WantedAdapter


class Adapters(Protocol):
    """Adapters and aliases."""

    async def add(self, adapter: Adapter) -> bool:
        """False, and nothing changes, if the tenant has this digest already."""
        ...

    async def get(self, tenant: str, adapter_id: str, *, for_update: bool = False) -> Adapter | None: ...
    async def get_all(self, names: Collection[AdapterName]) -> Mapping[AdapterName, Adapter]:
        """Those that there are."""
        ...

    async def get_aliased(self, names: Collection[AliasName]) -> Mapping[AliasName, Adapter]:
        """What those of the aliases point at that there are."""
        ...

    async def list(self, tenant: str, limit: int, cursor: str | None) -> Page[Adapter]:
        """Newest first."""
        ...

    async def save(self, adapter: Adapter) -> None: ...
    async def delete(self, tenant: str, adapter_id: str) -> None: ...
    async def wanted_bases(self) -> Sequence[str]:
        """The names of base models that have an adapter whose deployment is not UNDEPLOYED."""
        ...

    async def newest_wanted(self, base_model: str, limit: int) -> Sequence[WantedAdapter]:
        """Of the base model's adapters whose deployment is not UNDEPLOYED those made last, the newest first."""
        ...

    async def is_told(self, base_model: str, deployment: Deployment, message: str) -> bool:
        """Whether all of the base model's adapters that are not UNDEPLOYED say this."""
        ...

    async def tell_deployment(self, base_model: str, deployment: Deployment, message: str) -> int:
        """Says of all of the base model's adapters that are not UNDEPLOYED what has become of them.

        The number of those of which it was not so; nothing else is written.
        """
        ...

    async def get_alias(self, tenant: str, alias_id: str, *, for_update: bool = False) -> Alias | None: ...
    async def put_alias(self, alias: Alias) -> None:
        """Adds or replaces."""
        ...

    async def list_aliases(self, tenant: str, limit: int, cursor: str | None) -> Page[Alias]: ...
    async def delete_alias(self, tenant: str, alias_id: str) -> None: ...
    async def aliases_of(self, tenant: str, digest: str) -> Sequence[Alias]: ...

    async def put_share(self, share: AdapterShare) -> None:
        """Adds the share; one that is there already gets the new time."""
        ...

    async def delete_share(self, owner: str, digest: str, tenant: str) -> AdapterShare | None:
        """Deletes the share and returns it; None if there was none."""
        ...

    async def shares_of(self, owner: str, digest: str, limit: int, cursor: str | None) -> Page[AdapterShare]:
        """The adapter's shares, oldest first."""
        ...

    async def is_shared(self, owner: str, digest: str, tenant: str) -> bool:
        """Whether the tenant may call the adapter: it is shared with it, since it exists."""
        ...

    async def shared_with(self, tenant: str, limit: int, cursor: str | None) -> Page[Adapter]:
        """The adapters of others that the tenant may call, oldest share first."""
        ...


class Exports(Protocol):
    """Exports."""

    async def add(self, export: Export) -> None:
        """Raises AlreadyExists."""
        ...

    async def get(self, tenant: str, export_id: str, *, for_update: bool = False) -> Export | None: ...
    async def get_by_uid(self, uid: str, *, for_update: bool = False) -> Export | None: ...
    async def list(self, tenant: str, limit: int, cursor: str | None) -> Page[Export]:
        """Newest first."""
        ...

    async def in_state(self, state: ExportState, limit: int) -> Sequence[Export]:
        """Oldest first, over all tenants."""
        ...

    async def to_clean_up(self, limit: int) -> Sequence[Export]:
        """Exports that have ended, whose run on the cluster is not known to be gone; those that ended first come first."""
        ...

    async def save(self, export: Export) -> None: ...
    async def delete(self, tenant: str, export_id: str) -> None: ...
