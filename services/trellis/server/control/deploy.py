"""Makes the engines that run be the ones that are wanted, and says of each adapter whether it can be called."""

from collections.abc import Sequence
from dataclasses import replace

import structlog

from trellis.server.app.hosts import HostState
from trellis.server.control.context import ControlContext
from trellis.server.control.each import for_each
from trellis.server.domain.adapter import Adapter, Deployment
from trellis.server.domain.base_model import BaseModel
from trellis.wanted_adapters import WantedAdapter, WantedAdapters, wanted_key

_log = structlog.get_logger(__name__)
_DEPLOYMENT_OF = {
    HostState.ABSENT: Deployment.DEPLOYING,
    HostState.STARTING: Deployment.DEPLOYING,
    HostState.RUNNING: Deployment.DEPLOYED,
    HostState.FAILED: Deployment.FAILED,
}


class DeployAdapters:
    """Reconciles: wanted adapters → their bases' engines → the adapters' deployments and the lists that replicas follow."""

    name = "deploy"

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._listed: dict[str, bytes] = {}

    async def once(self) -> bool:
        """One round over all wanted adapters."""
        async with self._context.units(write=False) as unit:
            adapters = await unit.adapters.wanted()
            ids = {a.base_model.removeprefix("baseModels/") for a in adapters} | {*self._context.settings.always_on}
            bases = [base for base_id in sorted(ids) if (base := await unit.base_models.get(base_id)) is not None]
        await self._reconcile(adapters, bases)
        await self._list(adapters, bases)
        return False

    async def _reconcile(self, adapters: Sequence[Adapter], bases: Sequence[BaseModel]) -> None:
        engines = self._context.engines
        await engines.ensure(bases)
        states = await engines.states() if adapters else {}

        async def say(adapter: Adapter) -> None:
            base_id = adapter.base_model.removeprefix("baseModels/")
            state, message = states.get(base_id, (HostState.ABSENT, "The engine is not running yet."))
            await self._say(adapter, _DEPLOYMENT_OF[state], "" if state is HostState.RUNNING else message)

        await for_each(adapters, say)

    async def _list(self, adapters: Sequence[Adapter], bases: Sequence[BaseModel]) -> None:
        """Lay down for each engine's replicas what they shall have at hand, the adapters made last first."""
        for base in bases:
            base_id = base.base_model_id
            wanted = [WantedAdapter(a.digest, a.key) for a in reversed(adapters) if a.base_model == base.name]
            data = WantedAdapters(wanted).to_json()
            if self._listed.get(base_id) != data:
                await self._context.objects.run("put_bytes", wanted_key(base_id), data)
                self._listed[base_id] = data

    async def _say(self, adapter: Adapter, deployment: Deployment, message: str) -> None:
        if (adapter.deployment, adapter.deployment_message) == (deployment, message):
            return
        async with self._context.units() as unit:
            present = await unit.adapters.get(adapter.tenant, adapter.adapter_id, for_update=True)
            if present is None or present.deployment is Deployment.UNDEPLOYED:
                return  # no longer wanted
            changed = replace(present, deployment=deployment, deployment_message=message, revision=present.revision + 1)
            await unit.adapters.save(changed)
            await unit.commit()
        _log.info("adapter_deployment", tenant=adapter.tenant, adapter=adapter.name, deployment=deployment)
