"""The ledger: entries once, sums and holds with them, pages, and what is computed anew."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.store import samples

from trellis.server.app.ledger_reading import LedgerRange, StoredBytes, UsageGroup
from trellis.server.app.ports import UnitOfWork, UnitOfWorkFactory
from trellis.server.domain.derived import day_of, derive, hour_of
from trellis.server.domain.export import Export, ExportFile, ExportFormat, ExportState
from trellis.server.domain.ledger import EntryKind, LedgerEntry, Meter, NegativeHoldError, UsageSum
from trellis.server.domain.tuning_job import Checkpoint, JobState

UID = "uid-acme-1"
JOB = "tenants/acme/tuningJobs/job-1"
MS, TOKENS = Meter.ACCELERATOR_MILLISECONDS, Meter.TRAINED_TOKENS
ALL = LedgerRange()


def entry(key: str, quantity: int = 1, kind: EntryKind = EntryKind.SETTLE, **changes: Any) -> LedgerEntry:
    plain = LedgerEntry("acme", key, kind, MS, quantity, samples.NOW, base_model="baseModels/tiny")
    return replace(plain, **changes)


def hold(key: str, quantity: int, **changes: Any) -> LedgerEntry:
    return entry(key, quantity, EntryKind.HOLD, job_uid=UID, resource=JOB, **changes)


def settle(key: str, quantity: int, **changes: Any) -> LedgerEntry:
    return entry(key, quantity, job_uid=UID, resource=JOB, **changes)


async def _append(units: UnitOfWorkFactory, *entries: LedgerEntry) -> list[str]:
    async with units() as unit:
        written = await unit.ledger.append(entries)
        await unit.commit()
    return sorted(one.key for one in written)


async def _all(unit: UnitOfWork, tenant: str | None = "acme") -> list[LedgerEntry]:
    return list((await unit.ledger.entries(LedgerRange(tenant), 1000, None)).items)


async def test_an_entry_is_written_once_a_key(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    async with units() as unit:
        await unit.tenants.add(samples.tenant("other"))
        await unit.commit()
    assert await _append(units, entry("a", 5), entry("b", 7), entry("b", 99)) == ["a", "b"]
    assert await _append(units, entry("b", 50), entry("c", 1), entry("a", 3, tenant="other")) == ["a", "c"]
    assert await _append(units) == []
    async with units(write=False) as unit:
        found = await _all(unit)
        assert [(one.key, one.quantity) for one in found] == [("a", 5), ("b", 7), ("c", 1)]
        assert [one.sequence for one in found] == sorted({one.sequence for one in found})
        assert replace(found[0], sequence=0) == entry("a", 5)
        assert await unit.ledger.settled_since(["acme", "other"], day_of(samples.NOW)) == {
            "acme": {MS: 13},
            "other": {MS: 3},
        }
        assert len(await _all(unit, None)) == 4


async def test_the_database_refuses_to_change_an_entry(units: UnitOfWorkFactory, engine: AsyncEngine) -> None:
    await samples.seed(units)
    await _append(units, entry("a", 5))
    with pytest.raises(DBAPIError, match="the ledger is append-only"):
        async with engine.begin() as connection:
            await connection.execute(text("UPDATE ledger_entries SET quantity = 6"))
    async with units() as unit:
        await unit.tenants.delete("acme")
        await unit.commit()
    async with units(write=False) as unit:
        assert await _all(unit) == [], "with their tenant they go"


async def test_the_same_entries_from_two_servers_count_once(
    units: UnitOfWorkFactory, other_units: UnitOfWorkFactory
) -> None:
    await samples.seed(units)
    entries = [entry(str(number), meter=meter) for number, meter in enumerate([*Meter] * 4)]
    servers = (units, other_units)
    rounds = [_append(servers[n % 2], *(entries if n < 4 else entries[::-1])) for n in range(8)]
    written = await asyncio.gather(*rounds)
    assert sorted(key for keys in written for key in keys) == sorted(one.key for one in entries)
    async with units(write=False) as unit:
        kept = await unit.ledger.derived("acme")
        assert kept == derive(await _all(unit))
    assert sum(kept.days.values()) == len(entries)


async def test_what_is_held_never_falls_below_zero(units: UnitOfWorkFactory) -> None:
    await samples.seed(units, samples.job(1, state=JobState.RUNNING), samples.job(2))
    await _append(units, hold("h1", 100), hold("h2", 10, meter=TOKENS))
    await _append(units, settle("s1", 30), replace(hold("x", 5), job_uid="uid-acme-2"))
    async with units(write=False) as unit:
        assert await unit.ledger.held(UID) == {MS: 70, TOKENS: 10}
        assert await unit.ledger.held_by_active(["acme", "nobody"]) == {"acme": {MS: 70, TOKENS: 10}}
    with pytest.raises(NegativeHoldError, match=UID):
        await _append(units, settle("s2", 71))
    await _append(units, settle("s2", 71), hold("h3", 1))
    await _append(units, replace(settle("r", 10, meter=TOKENS), kind=EntryKind.RELEASE))
    async with units(write=False) as unit:
        assert await unit.ledger.held(UID) == {}
        kept = await unit.ledger.derived("acme")
        assert kept == derive(await _all(unit))
        assert kept.holds == {("uid-acme-2", MS, "acme"): 5}


async def test_entries_are_paged_by_time_and_filtered(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    await _append(units, *(entry(f"k{n}", time=samples.at(60 * (5 - n // 2)), job_uid="") for n in range(8)))
    await _append(units, hold("h", 4, time=samples.at(30)))
    async with units(write=False) as unit:
        whole = (await unit.ledger.entries(LedgerRange("acme"), 100, None)).items
        pieces: list[LedgerEntry] = []
        cursor: str | None = None
        while True:
            page = await unit.ledger.entries(LedgerRange("acme"), 2, cursor)
            pieces += page.items
            cursor = page.next_cursor
            if cursor is None:
                break
        assert pieces == list(whole)
        assert [(one.time, one.sequence) for one in whole] == sorted((one.time, one.sequence) for one in whole)
        part = LedgerRange("acme", samples.at(120), samples.at(240))
        some = (await unit.ledger.entries(part, 100, None)).items
        assert {one.key for one in some} == {"k4", "k5", "k6", "k7"}
        assert [one.key for one in (await unit.ledger.entries(LedgerRange(resource=JOB), 9, None)).items] == ["h"]


async def test_usage_is_summed_by_what_is_asked(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    hour = hour_of(samples.NOW)
    later, tomorrow = hour + timedelta(hours=1), hour + timedelta(hours=24)
    await _append(
        units,
        hold("h", 1000),
        settle("a", 600, price_nanos=5),
        settle("b", 10, price_nanos=7),
        entry("c", 3, meter=TOKENS, adapter="tenants/acme/adapters/1", time=later),
        entry("d", 4, meter=TOKENS, adapter="tenants/acme/adapters/1", time=tomorrow),
    )
    async with units(write=False) as unit:

        async def sums(*groups: UsageGroup, which: LedgerRange = ALL, limit: int = 100) -> list[UsageSum]:
            found: list[UsageSum] = []
            cursor: str | None = None
            while True:
                page = await unit.ledger.sums(which, groups, limit, cursor)
                found += page.items
                cursor = page.next_cursor
                if cursor is None:
                    return found

        assert await sums() == [UsageSum(MS, 5, 600), UsageSum(MS, 7, 10), UsageSum(TOKENS, 0, 7)]
        by_job = await sums(UsageGroup.TUNING_JOB, UsageGroup.TENANT, which=LedgerRange("acme"))
        assert by_job[0] == UsageSum(TOKENS, 0, 7, "acme")
        assert by_job[1] == UsageSum(MS, 5, 600, "acme", JOB)
        days = await sums(UsageGroup.DAY, UsageGroup.ADAPTER, which=LedgerRange("acme", later), limit=1)
        midnight = hour.replace(hour=0)
        assert [(one.time, one.quantity, one.adapter[-1:]) for one in days] == [
            (midnight, 3, "1"),
            (midnight + timedelta(days=1), 4, "1"),
        ]
        assert await sums(UsageGroup.HOUR, limit=1) == await sums(UsageGroup.HOUR)
        assert [one.time for one in await sums(UsageGroup.HOUR)] == [hour, hour, later, tomorrow]
        assert await sums(which=LedgerRange("nobody")) == []
        assert await sums(which=LedgerRange("acme", end=later)) == [UsageSum(MS, 5, 600), UsageSum(MS, 7, 10)]


async def test_what_tenants_keep_is_added_up(units: UnitOfWorkFactory) -> None:
    await samples.seed(units, samples.job(1))
    made = Export(
        "acme", "e", "export-1", "", "s", "k", "baseModels/tiny", ExportFormat.GGUF, ExportState.SUCCEEDED, "k", "",
        samples.NOW, end_time=samples.NOW, files=(ExportFile("a", 5, "s"), ExportFile("b", 6, "s")),
    )  # fmt: skip
    async with units() as unit:
        await unit.adapters.add(samples.adapter())
        await unit.jobs.add_checkpoint(UID, Checkpoint(1, 1, "k", 100, samples.NOW))
        await unit.exports.add(made)
        await unit.commit()
    async with units(write=False) as unit:
        assert await unit.ledger.stored_bytes(samples.at(60)) == {"acme": StoredBytes(5 * 2**30, 1024 + 100 + 11)}
        assert await unit.ledger.stored_bytes(samples.NOW) == {}
        assert await unit.ledger.metered_until() is None
