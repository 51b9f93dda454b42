"""A database that is lost in the middle of a commit: whether it took effect, whoever asked for it is not told."""

from collections.abc import Callable, Coroutine
from typing import Any

from trellis.server.app.ports import UnitOfWork, UnitOfWorkFactory
from trellis.server.store.failures import busy


class DatabaseLost:
    """Units of work of which that of this number, counting those that write, fails as it commits; `took_effect` or not."""

    def __init__(self, units: UnitOfWorkFactory, number: int, *, took_effect: bool = False) -> None:
        self._units = units
        self._left = number
        self._took_effect = took_effect

    def __call__(self, *, write: bool = True, snapshot: bool = True) -> UnitOfWork:
        """A fresh unit of work."""
        unit = self._units(write=write, snapshot=snapshot)
        self._left -= write
        if write and not self._left:
            unit.commit = self._lost(unit.commit)  # type: ignore[method-assign]
        return unit

    def _lost(self, commit: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], Coroutine[Any, Any, None]]:
        async def lost() -> None:
            if self._took_effect:
                await commit()
            raise busy()

        return lost
