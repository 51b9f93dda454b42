"""Finds the models that calls name, for all that come at the same time with a few queries.

Nothing is remembered: from the answer on that an adapter is undeployed, an alias moved or a quota set, every call goes by it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trellis.names import AdapterName, AliasName, BaseModelName
from trellis.server.app.batches import Batches
from trellis.server.app.call_gate import CallGate
from trellis.server.app.ports import UnitOfWork, UnitOfWorkFactory
from trellis.server.domain.adapter import Adapter
from trellis.server.domain.base_model import BaseModel
from trellis.server.domain.tenant import Tenant


@dataclass(frozen=True, slots=True)
class WantedModel:
    """What a call names."""

    tenant: str
    """Whom the call is for; empty for the platform."""
    adapter: AdapterName | AliasName | None = None
    base_model: str = ""
    """The id, where no adapter is named."""


@dataclass(frozen=True, slots=True)
class FoundModel:
    """What there is of it."""

    tenant: Tenant | None
    adapter: Adapter | None
    base: BaseModel | None
    """If it was named, or the tenant's calls are counted."""


ModelLookup = Batches[WantedModel, FoundModel]


def model_lookup(units: UnitOfWorkFactory) -> ModelLookup:
    """One over this database."""

    async def look(wanted: Sequence[WantedModel]) -> Sequence[FoundModel]:
        async with units(write=False, snapshot=False) as unit:
            return await _find(unit, wanted)

    return Batches(look)


async def _find(unit: UnitOfWork, wanted: Sequence[WantedModel]) -> Sequence[FoundModel]:
    # Tenants first: of an adapter that is there then, the tenant was there before. Each query sees one state of all it reads.
    tenants = await unit.tenants.get_all({each.tenant for each in wanted if each.tenant})
    adapters = await _adapters(unit, {each.adapter for each in wanted if each.adapter is not None})
    found = [
        (tenants.get(each.tenant), adapters.get(each.adapter) if each.adapter is not None else None) for each in wanted
    ]
    needed = [
        each.base_model or (_base_of(adapter) if adapter is not None and CallGate.counts(tenant) else "")
        for each, (tenant, adapter) in zip(wanted, found, strict=True)
    ]
    bases = await unit.base_models.get_all({base for base in needed if base})
    return [FoundModel(tenant, adapter, bases.get(base)) for (tenant, adapter), base in zip(found, needed, strict=True)]


async def _adapters(
    unit: UnitOfWork, names: Iterable[AdapterName | AliasName]
) -> dict[AdapterName | AliasName, Adapter]:
    own = {name for name in names if isinstance(name, AdapterName)}
    aliases = {name for name in names if isinstance(name, AliasName)}
    found: dict[AdapterName | AliasName, Adapter] = {}
    found.update(await unit.adapters.get_all(own))
    found.update(await unit.adapters.get_aliased(aliases))
    return found


def _base_of(adapter: Adapter) -> str:
    return BaseModelName.parse(adapter.base_model).base_model
