"""Finds the models that calls name, for all that come at the same time with a few queries.

Nothing is remembered: from the answer on that an adapter is undeployed, an alias moved or a quota set, every call goes by it.
"""

from collections.abc import Sequence
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
    own = await unit.adapters.get_all({each.adapter for each in wanted if isinstance(each.adapter, AdapterName)})
    aliased = await unit.adapters.get_aliased({each.adapter for each in wanted if isinstance(each.adapter, AliasName)})

    def adapter_of(name: AdapterName | AliasName | None) -> Adapter | None:
        if name is None:
            return None
        return own.get(name) if isinstance(name, AdapterName) else aliased.get(name)

    found = [(tenants.get(each.tenant), adapter_of(each.adapter)) for each in wanted]
    needed = [
        each.base_model or (_base_of(adapter) if adapter is not None and CallGate.counts(tenant) else "")
        for each, (tenant, adapter) in zip(wanted, found, strict=True)
    ]
    bases = await unit.base_models.get_all({base for base in needed if base})
    return [FoundModel(tenant, adapter, bases.get(base)) for (tenant, adapter), base in zip(found, needed, strict=True)]


def _base_of(adapter: Adapter) -> str:
    return BaseModelName.parse(adapter.base_model).base_model
