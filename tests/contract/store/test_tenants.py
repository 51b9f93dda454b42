"""Tenants and API keys."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.store import samples

from trellis.errors import AlreadyExists, NotFound, Reason
from trellis.server.app.ports import UnitOfWork, UnitOfWorkFactory
from trellis.server.domain.adapter import Alias
from trellis.server.domain.dataset import Upload, UploadPart
from trellis.server.domain.ledger import EntryKind, LedgerEntry, Meter
from trellis.server.domain.quota import Quota
from trellis.server.domain.remembered_request import RememberedRequest
from trellis.server.domain.tenant import Tenant
from trellis.server.domain.tuning_job import Checkpoint, EventLevel, JobEvent, MetricPoint
from trellis.server.store.tables import metadata


async def test_a_tenant_comes_back(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        await unit.tenants.add(samples.tenant())
        await unit.commit()
    async with units(write=False) as unit:
        found = await unit.tenants.get("acme")
        assert found == samples.tenant()
        assert found.create_time.tzinfo is UTC
        assert await unit.tenants.get("other") is None


async def test_times_of_other_zones_are_the_same_moment(units: UnitOfWorkFactory) -> None:
    elsewhere = samples.NOW.astimezone(timezone(timedelta(hours=-7)))
    async with units() as unit:
        await unit.tenants.add(Tenant("acme", "", elsewhere))
        await unit.commit()
    async with units(write=False) as unit:
        found = await unit.tenants.get("acme")
    assert found is not None
    assert (found.create_time, found.create_time.tzinfo) == (samples.NOW, UTC)


async def test_times_without_a_zone_are_a_bug(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        with pytest.raises(Exception, match="no time zone"):
            await unit.tenants.add(Tenant("acme", "", datetime(2026, 1, 1)))  # noqa: DTZ001


async def test_a_name_is_given_once(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    async with units() as unit:
        with pytest.raises(AlreadyExists) as caught:
            await unit.tenants.add(samples.tenant())
    assert caught.value.reason == Reason.RESOURCE_EXISTS
    assert caught.value.metadata == {"resource": "tenants/acme"}


async def test_a_tenant_is_changed(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    changed = replace(samples.tenant(), display_name="New", serving_weight=2.5, revision=2)
    async with units() as unit:
        assert await unit.tenants.get("acme", for_update=True) == samples.tenant()
        await unit.tenants.save(changed)
        assert await unit.tenants.get("acme") == changed
        with pytest.raises(NotFound):
            await unit.tenants.save(samples.tenant("nobody"))


async def test_tenants_are_listed_oldest_first(units: UnitOfWorkFactory) -> None:
    async with units() as unit:
        for name, seconds in (("c", 1), ("a", 3), ("b", 2), ("d", 2)):
            await unit.tenants.add(samples.tenant(name, seconds))
        first = await unit.tenants.list(3, None)
        second = await unit.tenants.list(3, first.next_cursor)
    assert [t.tenant_id for t in first.items] == ["c", "b", "d"]
    assert [t.tenant_id for t in second.items] == ["a"]
    assert second.next_cursor is None


async def test_deleting_a_tenant_leaves_nothing_of_it(units: UnitOfWorkFactory, engine: AsyncEngine) -> None:
    await samples.seed(units, samples.job())
    async with units() as unit:
        await _fill(unit)
        await unit.tenants.add(samples.tenant("other"))
        await unit.jobs.add(samples.job(of="other"))
        await unit.requests.add(RememberedRequest("CreateTenant", "r2", "f", "tenants/other", samples.NOW))
        await unit.commit()
    async with units() as unit:
        await unit.tenants.delete("acme")
        await unit.commit()
    async with engine.connect() as connection:
        left = {
            table.name: await connection.scalar(select(func.count()).select_from(table))
            for table in metadata.sorted_tables
            if table.name != "least_revision"  # the database's own
        }
    assert {name: count for name, count in left.items() if count} == {
        "base_models": 1,
        "tenants": 1,
        "tuning_jobs": 1,
        "requests": 1,
    }


async def _fill(unit: UnitOfWork) -> None:
    """A row of acme's in every table."""
    await unit.api_keys.add(samples.key())
    await unit.datasets.start_upload(Upload("acme", "faq", samples.SHA, 10, samples.NOW))
    upload = Upload("acme", "faq", samples.SHA, 10, samples.NOW)
    assert await unit.datasets.add_part(upload, UploadPart(0, 5, "p"), samples.NOW)
    await unit.datasets.add_report(samples.report())
    found = await unit.jobs.get("acme", "job-1", for_update=True)
    assert found is not None
    await unit.jobs.save(found, [JobEvent(samples.NOW, EventLevel.INFO, "hello")])
    await unit.jobs.add_attempt(samples.attempt())
    await unit.jobs.add_metrics("uid-acme-1", [MetricPoint(1, {"loss": 1.0}, samples.NOW)])
    await unit.jobs.add_checkpoint("uid-acme-1", Checkpoint(1, 1, "k", 1, samples.NOW))
    await unit.jobs.append_log("uid-acme-1", 1, "text")
    await unit.adapters.add(samples.adapter())
    await unit.adapters.put_alias(Alias("acme", "live", samples.digest(1), samples.NOW))
    entry = LedgerEntry("acme", "k", EntryKind.SETTLE, Meter.TRAINED_TOKENS, 1, samples.NOW)
    await unit.ledger.append([entry, replace(entry, key="h", kind=EntryKind.HOLD, job_uid="uid-acme-1")])
    await unit.requests.add(
        RememberedRequest("CreateTuningJob tenants/acme", "r1", "f", "tenants/acme/tuningJobs/job-1", samples.NOW)
    )


async def test_keys_are_found_by_name_and_by_hash(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    mine, admin = samples.key("key-1"), samples.key("key-2", of=None)
    async with units() as unit:
        await unit.api_keys.add(mine)
        await unit.api_keys.add(admin)
        assert await unit.api_keys.get("acme", "key-1") == mine
        assert await unit.api_keys.get(None, "key-1") is None
        assert await unit.api_keys.get("acme", "key-2") is None
        assert await unit.api_keys.get(None, "key-2") == admin
        assert await unit.api_keys.find(mine.secret_hash) == mine
        assert await unit.api_keys.find("0" * 64) is None
        with pytest.raises(AlreadyExists):
            await unit.api_keys.add(mine)


async def test_many_keys_are_found_at_once_by_their_secrets_and_those_before(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    rotated = replace(samples.key("key-1"), old_secret_hash="a" * 64, old_secret_expire_time=samples.NOW)
    admin = samples.key("key-2", of=None)
    async with units() as unit:
        for key in (rotated, admin):
            await unit.api_keys.add(key)
        asked = {rotated.secret_hash, admin.secret_hash, "a" * 64, "0" * 64}
        assert await unit.api_keys.find_all(asked) == {
            rotated.secret_hash: rotated,
            admin.secret_hash: admin,
            "a" * 64: rotated,
        }
        assert await unit.api_keys.find_all([]) == {}
        for secret_hash in asked:
            assert (await unit.api_keys.find_all([secret_hash])).get(secret_hash) == await unit.api_keys.find(
                secret_hash
            )


async def test_many_tenants_are_read_at_once(units: UnitOfWorkFactory) -> None:
    limited = replace(samples.tenant("globex"), quota=Quota(open_jobs=3))
    async with units() as unit:
        for tenant in (samples.tenant("acme"), limited, samples.tenant("other")):
            await unit.tenants.add(tenant)
        found = await unit.tenants.get_all(["acme", "globex", "nobody"])
        assert found == {"acme": samples.tenant("acme"), "globex": limited}


async def test_keys_are_listed_by_their_owner(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    async with units() as unit:
        for number in range(4):
            await unit.api_keys.add(samples.key(f"t{number}", seconds=-number))
            await unit.api_keys.add(samples.key(f"p{number}", of=None, seconds=number))
        of_tenant = await unit.api_keys.list("acme", 3, None)
        rest = await unit.api_keys.list("acme", 3, of_tenant.next_cursor)
        of_platform = await unit.api_keys.list(None, 10, None)
    assert [k.key_id for k in [*of_tenant.items, *rest.items]] == ["t3", "t2", "t1", "t0"]
    assert [k.key_id for k in of_platform.items] == ["p0", "p1", "p2", "p3"]


async def test_a_key_is_revoked(units: UnitOfWorkFactory) -> None:
    await samples.seed(units)
    revoked = replace(samples.key(), revoke_time=samples.at(5))
    async with units() as unit:
        await unit.api_keys.add(samples.key())
        await unit.api_keys.save(revoked)
        assert await unit.api_keys.get("acme", "key-1") == revoked
        with pytest.raises(NotFound):
            await unit.api_keys.save(samples.key("key-9"))
