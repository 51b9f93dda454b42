"""Makes the engines that run be the ones that are wanted, and says of each adapter whether it can be called."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import structlog

from trellis.server.app.hosts import HostState
from trellis.server.control.context import ControlContext
from trellis.server.domain.adapter import Deployment
from trellis.server.domain.base_model import BaseModel
from trellis.wanted_adapters import MAX_WANTED, WantedAdapters, wanted_key

_log = structlog.get_logger(__name__)
_DEPLOYMENT_OF = {
    HostState.ABSENT: Deployment.DEPLOYING,
    HostState.STARTING: Deployment.DEPLOYING,
    HostState.RUNNING: Deployment.DEPLOYED,
    HostState.FAILED: Deployment.FAILED,
}
_ABSENT: Final = (HostState.ABSENT, "The engine is not running yet.")
_LIST_SECONDS: Final = 5
"""So long a list for replicas may be out of date: what is not on it is fetched when it is called."""


class DeployAdapters:
    """Reconciles: wanted adapters → their bases' engines → the adapters' deployments and the lists that replicas follow.

    What a round costs goes by the number of bases and of changes, not by that of adapters (docs/scaling.md).
    """

    name = "deploy"

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._listed: dict[str, bytes] = {}
        self._list_time: datetime | None = None

    async def once(self) -> bool:
        """One round over all bases that have wanted adapters, or shall run anyway."""
        async with self._context.units(write=False) as unit:
            wanted = {name.removeprefix("baseModels/") for name in await unit.adapters.wanted_bases()}
            ids = sorted(wanted | {*self._context.settings.always_on})
            bases = [base for base_id in ids if (base := await unit.base_models.get(base_id)) is not None]
        await self._reconcile([base for base in bases if base.base_model_id in wanted], bases)
        now = self._context.now()
        if self._list_time is None or now >= self._list_time + timedelta(seconds=_LIST_SECONDS):
            await self._list(bases)
            self._list_time = now
        return False

    async def _reconcile(self, used: Sequence[BaseModel], bases: Sequence[BaseModel]) -> None:
        engines = self._context.engines
        await engines.ensure(bases)
        if not used:
            return
        states = await engines.states()
        said = {base.name: _said(*states.get(base.base_model_id, _ABSENT)) for base in used}
        async with self._context.units(write=False, snapshot=False) as unit:
            news = [base for base in said if not await unit.adapters.is_told(base, *said[base])]
        for base in news:
            await self._tell(base, *said[base])

    async def _tell(self, base_model: str, deployment: Deployment, message: str) -> None:
        async with self._context.units() as unit:
            count = await unit.adapters.tell_deployment(base_model, deployment, message)
            await unit.commit()
        _log.info("adapters_deployment", base_model=base_model, adapters=count, deployment=deployment, why=message)

    async def _list(self, bases: Sequence[BaseModel]) -> None:
        """Lay down for each engine's replicas what they shall have at hand, the adapters made last first."""
        for base in bases:
            base_id = base.base_model_id
            async with self._context.units(write=False, snapshot=False) as unit:
                wanted = await unit.adapters.newest_wanted(base.name, MAX_WANTED)
            data = WantedAdapters(wanted).to_json()
            if self._listed.get(base_id) != data:
                await self._context.objects.run("put_bytes", wanted_key(base_id), data)
                self._listed[base_id] = data


def _said(state: HostState, message: str) -> tuple[Deployment, str]:
    return _DEPLOYMENT_OF[state], "" if state is HostState.RUNNING else message
