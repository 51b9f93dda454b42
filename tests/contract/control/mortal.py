"""Servers that are killed: between any two effects, and with nothing done afterwards, not even in a `finally`."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from trellis.errors import Reason, Unavailable
from trellis.server.app.hosts import JobCluster, RunReport, RunRequest
from trellis.server.app.ports import UnitOfWork, UnitOfWorkFactory


class Killed(BaseException):
    """The server is dead. Not an Exception: nobody survives it."""


class Fuse:
    """Burns down by one before and after each effect; at zero the server is dead, and stays so."""

    def __init__(self, length: int) -> None:
        self.left = length

    def burn(self) -> None:
        self.left -= 1
        self.expect_alive()

    def expect_alive(self) -> None:
        if self.left <= 0:
            raise Killed


class Hiccup(Fuse):
    """At zero one effect fails, or its answer is lost; the server lives on."""

    def burn(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Unavailable(Reason.INTERNAL, "It did not work, or perhaps it did.")

    def expect_alive(self) -> None:
        pass


class MortalUnits:
    """A server's units of work."""

    def __init__(self, units: UnitOfWorkFactory, fuse: Fuse) -> None:
        self._units = units
        self._fuse = fuse

    def __call__(self, *, write: bool = True, snapshot: bool = True) -> UnitOfWork:
        self._fuse.expect_alive()
        return _MortalUnit(self._units(write=write, snapshot=snapshot), self._fuse)  # type: ignore[return-value]


class _MortalUnit:
    def __init__(self, unit: UnitOfWork, fuse: Fuse) -> None:
        self._unit = unit
        self._fuse = fuse

    def __getattr__(self, name: str) -> Any:
        return getattr(self._unit, name)

    async def __aenter__(self) -> Self:
        await self._unit.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._unit.__aexit__(kind, error, traceback)

    async def commit(self) -> None:
        self._fuse.burn()
        await self._unit.commit()
        self._fuse.burn()


class MortalCluster:
    """A server's way to the cluster."""

    def __init__(self, cluster: JobCluster, fuse: Fuse) -> None:
        self._cluster = cluster
        self._fuse = fuse

    async def submit(self, request: RunRequest) -> None:
        await self._effect(self._cluster.submit, request)

    async def stop(self, submission_id: str) -> None:
        await self._effect(self._cluster.stop, submission_id)

    async def forget(self, submission_id: str) -> None:
        await self._effect(self._cluster.forget, submission_id)

    async def status(self, submission_id: str) -> RunReport:
        self._fuse.expect_alive()
        return await self._cluster.status(submission_id)

    async def log_tail(self, submission_id: str, max_bytes: int) -> str:
        self._fuse.expect_alive()
        return await self._cluster.log_tail(submission_id, max_bytes)

    async def list(self) -> Sequence[str]:
        self._fuse.expect_alive()
        return await self._cluster.list()

    async def _effect(self, method: Any, argument: Any) -> None:
        self._fuse.burn()
        await method(argument)
        self._fuse.burn()
