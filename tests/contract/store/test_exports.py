"""Exports."""

from dataclasses import replace
from typing import Any

import pytest
from tests.contract.store import samples

from trellis.errors import AlreadyExists, NotFound
from trellis.server.app.ports import UnitOfWorkFactory
from trellis.server.domain.export import Export, ExportFile, ExportFormat, ExportState
from trellis.server.domain.tuning_job import JobError


@pytest.fixture(autouse=True)
async def _tenants(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    async with units() as unit:
        await unit.tenants.add(samples.tenant("other"))
        await unit.commit()


def _export(number: int = 1, of: str = "acme", **changes: Any) -> Export:
    plain = Export(
        of, f"mine-{number}", f"export-{of}-{number}", "Mine", f"tenants/{of}/adapters/{'0' * 24}", "k/a",
        "baseModels/tiny", ExportFormat.SAFETENSORS, ExportState.PENDING, f"k/{number}", "", samples.at(number),
    )  # fmt: skip
    return replace(plain, **changes)


async def test_an_export_is_kept_whole(units: UnitOfWorkFactory) -> None:
    done = _export(
        state=ExportState.SUCCEEDED,
        submission_id="run",
        start_time=samples.at(3),
        end_time=samples.at(4),
        files=(ExportFile("model.safetensors", 5 << 30, samples.SHA), ExportFile("config.json", 2, samples.SHA)),
        cleaned_up=True,
    )
    failed = _export(2).failed(samples.at(5), JobError("INTERNAL", "It broke.", {"run": "1"}))
    async with units() as unit:
        await unit.exports.add(_export())
        await unit.exports.add(failed)
        await unit.exports.save(done)
        with pytest.raises(NotFound):
            await unit.exports.save(_export(9))
        await unit.commit()
    async with units() as unit:
        assert await unit.exports.get("acme", "mine-1") == done
        assert await unit.exports.get_by_uid(failed.uid, for_update=True) == failed
        assert await unit.exports.get("other", "mine-1", for_update=True) is None
        await unit.exports.delete("acme", "mine-1")
        assert await unit.exports.get_by_uid(done.uid) is None


async def test_a_tenant_uses_an_id_once(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        await unit.exports.add(_export())
        await unit.exports.add(_export(of="other"))
        with pytest.raises(AlreadyExists, match="tenants/acme/exports/mine-1"):
            await unit.exports.add(_export(uid="export-another"))


async def test_exports_are_listed_newest_first(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        for number in range(1, 6):
            await unit.exports.add(_export(number))
        await unit.exports.add(_export(9, of="other"))
        first = await unit.exports.list("acme", 3, None)
        second = await unit.exports.list("acme", 3, first.next_cursor)
    assert [*first.items, *second.items] == [_export(number) for number in (5, 4, 3, 2, 1)]


async def test_what_is_to_be_done_is_found(units: UnitOfWorkFactory) -> None:
    waiting, running = _export(2), _export(1, state=ExportState.RUNNING)
    late = _export(3).failed(samples.at(9), JobError("INTERNAL", "It broke."))
    soon = _export(4, state=ExportState.SUCCEEDED, end_time=samples.at(8))
    async with units() as unit:
        for one in (waiting, running, late, soon, _export(5, of="other"), replace(_export(6), cleaned_up=True)):
            await unit.exports.add(one)
        assert await unit.exports.in_state(ExportState.RUNNING, 10) == [running]
        assert [e.export_id for e in await unit.exports.in_state(ExportState.PENDING, 2)] == ["mine-2", "mine-5"]
        assert await unit.exports.to_clean_up(10) == [soon, late]
        await unit.exports.save(replace(soon, cleaned_up=True))
        assert await unit.exports.to_clean_up(10) == [late]


async def test_a_base_model_is_needed_until_its_exports_have_ended(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        await unit.exports.add(_export())
        await unit.exports.add(_export(2, state=ExportState.SUCCEEDED, end_time=samples.at(8)))
        assert await unit.base_models.users("tiny") == ["tenants/acme/exports/mine-1"]


async def test_a_tenants_exports_go_with_it(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        await unit.exports.add(_export(of="other"))
        await unit.tenants.delete("other")
        assert await unit.exports.get("other", "mine-1") is None
