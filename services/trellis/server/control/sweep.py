"""Deletes objects that no row names any more, and parts of ones that never became any: what processes that died left behind."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import datetime

import structlog

from trellis.errors import Unavailable
from trellis.objects import ObjectInfo
from trellis.server.app import keys
from trellis.server.app.ports import Page, UnitOfWork
from trellis.server.control.context import ControlContext
from trellis.server.domain.adapter import Adapter
from trellis.server.domain.export import Export

_log = structlog.get_logger(__name__)
_PAGE = 200
_IMPORTS = "import-"
_CHECKPOINT = re.compile(r"step-(\d{1,12})-attempt-(\d{1,9})")
_List = Callable[[str, int, str | None], Awaitable[Page[Adapter] | Page[Export]]]


class SweepObjects:
    """Looks at every tenant's folders; one that nothing names at two looks in a row is deleted.

    Two, because an object may be there a moment before its row is. An import may take longer, and nothing tells one that
    is under way from one that was given up: its files must have been seen for as long as an upload is kept. So long, too,
    an object may take to be written before its parts are discarded.
    """

    name = "sweep"

    def __init__(self, context: ControlContext) -> None:
        self._context = context
        self._seen: dict[str, datetime] = {}
        """Orphans of the last look, and when each was seen first."""

    async def once(self) -> bool:
        """One look."""
        now, lifetime = self._context.now(), self._context.settings.upload_lifetime
        orphans = [folder async for tenant in self._tenants() async for folder in self._orphans(tenant)]
        seen = {folder: self._seen.get(folder, now) for folder in orphans}
        for folder in sorted(seen.keys() & self._seen.keys()):
            if _is_import(folder) and now < seen[folder] + lifetime:
                continue
            await self._context.objects.run("delete_prefix", folder)
            _log.info("orphan_objects_deleted", folder=folder)
        self._seen = seen
        await self._discard_unfinished(now - lifetime)
        return False

    async def _discard_unfinished(self, begun_before: datetime) -> None:
        try:
            count = await self._context.objects.run("discard_unfinished", keys.TENANTS, begun_before)
        except Unavailable as error:  # as of a store whose own rule does it, and that does not let us list them
            _log.warning("unfinished_objects_unknown", why=str(error))
            return
        if count:
            _log.info("unfinished_objects_discarded", count=count)

    async def _tenants(self) -> AsyncIterator[str]:
        cursor: str | None = None
        while True:
            async with self._context.units(write=False) as unit:
                page = await unit.tenants.list(_PAGE, cursor)
            for tenant in page.items:
                yield tenant.tenant_id
            if (cursor := page.next_cursor) is None:
                return

    async def _orphans(self, tenant: str) -> AsyncIterator[str]:
        # Listed before the database is read: what is made in between is not in the list.
        listed = await self._context.objects.run("list", keys.tenant_prefix(tenant))
        for folder in _folders(listed):
            async with self._context.units(write=False) as unit:
                if not await _is_named(unit, tenant, folder):
                    yield folder


def _is_import(folder: str) -> bool:
    return folder.rpartition("/")[2].startswith(_IMPORTS)


def _folders(listed: Iterable[ObjectInfo]) -> list[str]:
    """The folders that belong to one row each."""
    depth = {"jobs": 4, "adapters": 4, "models": 4, "exports": 4, "uploads": 5, "datasets": 5}
    parts = [info.key.split("/") for info in listed]
    found = {tuple(part[: depth[part[2]]]) for part in parts if part[2] in depth and len(part) > depth[part[2]]}
    found |= {tuple(part[:6]) for part in parts if part[2] == "jobs" and len(part) > 6 and part[4] == "checkpoints"}
    return ["/".join(folder) for folder in sorted(found)]


async def _is_named(unit: UnitOfWork, tenant: str, folder: str) -> bool:
    kind, *ids = folder.split("/")[2:]
    if kind == "jobs" and len(ids) > 1:
        return await _is_checkpoint(unit, tenant, ids[0], folder)
    if kind == "jobs":
        return await unit.jobs.get_by_uid(ids[0]) is not None
    if kind == "uploads":
        return await unit.datasets.get_upload(tenant, ids[0], ids[1]) is not None
    if kind == "datasets":
        return await unit.datasets.get_version(tenant, ids[0], ids[1]) is not None
    if kind == "exports":
        return await unit.exports.get_by_uid(ids[0]) is not None
    if await _may_still_come(unit, ids[0]):
        return True
    made = unit.adapters.list if kind == "adapters" else unit.exports.list
    return await _lies_at(made, tenant, folder)


async def _is_checkpoint(unit: UnitOfWork, tenant: str, uid: str, folder: str) -> bool:
    """Whether a checkpoint of the job lies there, or still may, or somebody reads one that the job keeps no longer."""
    match = _CHECKPOINT.fullmatch(folder.rpartition("/")[2])
    if match is None:
        return True  # nothing that was made here
    checkpoint = await unit.jobs.get_checkpoint(uid, int(match[1]))
    attempt = await unit.jobs.get_attempt(uid, int(match[2]))
    if (checkpoint is not None and checkpoint.key == folder) or (attempt is not None and not attempt.ended):
        return True
    return folder in await unit.jobs.checkpoint_keys_in_use(tenant)


async def _may_still_come(unit: UnitOfWork, run: str) -> bool:
    """Whether this is an attempt that goes on."""
    uid, _, number = run.rpartition("-")
    attempt = await unit.jobs.get_attempt(uid, int(number)) if number.isdecimal() else None
    return attempt is not None and not attempt.ended


async def _lies_at(made: _List, tenant: str, folder: str) -> bool:
    """Whether one of what a tenant has lies in this folder."""
    cursor: str | None = None
    while True:
        page = await made(tenant, _PAGE, cursor)
        if any(one.key == folder for one in page.items):
            return True
        if (cursor := page.next_cursor) is None:
            return False
