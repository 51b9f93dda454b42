"""The base models that a server was told of: registered when it starts, or when their files have come."""

import structlog

from trellis.base_cache.cache import split_revision
from trellis.errors import AlreadyExists, InvalidArgument, Unavailable
from trellis.server.app.base_models import NewBaseModel, create_base_model
from trellis.server.app.context import Context
from trellis.server.app.idempotency import RequestKey

_log = structlog.get_logger(__name__)


class ConfiguredBases:
    """`(id, source)` pairs, where a source may end in `@REVISION`: a step of a control loop, for those that come late.

    The first is the default. When it comes late another one of them is until then.
    """

    name = "register_base_models"

    def __init__(self, context: Context, models: tuple[tuple[str, str], ...]) -> None:
        self._context = context
        self._ids = tuple(base_model_id for base_model_id, _ in models)
        self.late = models
        """Those that may still come."""

    async def register(self) -> None:
        """Register those that are not registered yet and whose files are here; raises InvalidArgument for a wrong one."""
        self.late = tuple([model for model in self.late if not await self._registered(*model)])

    async def once(self) -> bool:
        """Try those that are missing once more; one that turns out to be wrong stops no server that serves."""
        for model in self.late:
            try:
                is_there = await self._registered(*model)
            except InvalidArgument as error:
                _log.error("base_model_refused", base_model=model[0], source=model[1], why=str(error))
                is_there = True
            if is_there:
                self.late = tuple(one for one in self.late if one != model)
        return False

    async def _registered(self, base_model_id: str, source: str) -> bool:
        async with self._context.units(write=False) as unit:
            present = await unit.base_models.get(base_model_id)
            default = await unit.base_models.default()
        if present is not None:
            return True
        leads = base_model_id == self._ids[0] and (default is None or default.base_model_id in self._ids)
        place, revision = split_revision(source)
        new = NewBaseModel(base_model_id, base_model_id, place, revision, is_default=leads)
        try:
            await create_base_model(self._context, new, RequestKey())
        except AlreadyExists:
            return True  # another server was faster
        except Unavailable as error:
            _log.warning("base_model_not_fetched", base_model=base_model_id, source=source, why=str(error))
            return False
        _log.info("base_model_registered", base_model=base_model_id, source=source)
        return True
