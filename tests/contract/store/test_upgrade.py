"""A database of the first release: up to the present tables, back, and up again without loss, and in use there.

`first_release.json` was recorded with that release's own code: tenants, keys, data, an upload that was cut, and jobs that had ended
well, had failed after retries, ran, waited, and were cancelled.
"""

import json
import math
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import Boolean, Connection, DateTime, Table, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from tests.database_rows import contents, tables_of
from tests.server_fakes import TINY, World, make_world, submit

from trellis.server.app import adapters, tuning_jobs
from trellis.server.app.pages import PageQuery
from trellis.server.domain.ledger import Meter
from trellis.server.domain.tuning_job import JobState
from trellis.server.store.engine import create_engine_for
from trellis.server.store.migrations import downgrade, migrate
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory

_RECORDED: dict[str, list[dict[str, Any]]] = json.loads(
    Path(__file__).with_name("first_release.json").read_text().replace("{tiny}", str(TINY))
)
_NOT_IN_THE_FIRST: Final = {
    # The weight that tenants have in serving: all are alike again.
    "tenants": {"serving_weight", "training_weight", "cohort", "quota"},
    # How far an attempt was, and on what: the first release counts an attempt's use when it ends.
    "attempts": {
        *("accelerators", "step", "step_time", "traceparent", "trainer_uid", "used_seconds", "used_tokens"),
    },
    # The best checkpoint is not known, and none is kept from being pruned.
    "checkpoints": {"pinned", "valid_loss"},
    # Reasons for other attempts are counted from nothing, priorities are forgotten.
    "tuning_jobs": {
        *(
            "adapted_share",
            "decline_count",
            "estimate",
            "export_id",
            "failure_count",
            "memory_halvings",
            "preemption_count",
            "priority",
        ),
        *("stop_time", "traceparent", "used_seconds", "used_tokens", "warnings"),
    },
    # A narrowed key would open all of its role, so those are revoked; a rotated key's old secret opens nothing at once.
    "api_keys": {"last_use_time", "old_secret_expire_time", "old_secret_hash", "rotate_time", "scopes"},
    # Only the estimate of a job's tokens needs it.
    "reports": {"token_count"},
    # Made anew by whoever is newer, or of what the first release does not have.
    "trainers": None,
    "exports": None,
    "adapter_shares": None,
    "audit_events": None,
    "fair_shares": None,
    "holds": None,
    "leases": None,
    "least_revision": None,
    "rate_buckets": None,
    "reservations": None,
    "scheduler_board": None,
    # What was settled of the meters that the first release has goes back to usage_records.
    "ledger_entries": None,
    "usage_days": None,
    "usage_hours": None,
}
"""What taking a database back to the first release drops: columns, or whole tables; and why that is all right."""


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """A database as the first release left it."""
    await migrate(database_url, "v0001")
    made = create_async_engine(database_url)
    async with made.begin() as connection:
        await connection.run_sync(_fill)
    yield made
    await made.dispose()


def _fill(connection: Connection) -> None:
    for table in tables_of(connection).sorted_tables:
        if rows := _RECORDED.get(table.name):
            connection.execute(insert(table), [_typed(table, row) for row in rows])


def _typed(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    return {name: _value(table.c[name].type, value) for name, value in row.items()}


def _value(kind: object, value: Any) -> Any:
    if isinstance(kind, DateTime) and isinstance(value, str):
        return datetime.fromisoformat(value).replace(tzinfo=UTC)
    return bool(value) if isinstance(kind, Boolean) and value is not None else value


async def test_up_down_and_up_again_loses_nothing(engine: AsyncEngine, database_url: str) -> None:
    first = await contents(engine)
    assert all(first.values()), "every table of the first release has rows"
    await migrate(database_url)
    present = await contents(engine)
    for table in first.keys() - {"usage_records"}:
        assert len(present[table]) == len(first[table])
    await downgrade(database_url, "v0001")
    assert await contents(engine) == first
    await migrate(database_url)
    assert await contents(engine) == present


async def test_what_taking_it_back_drops_is_known(engine: AsyncEngine, database_url: str) -> None:
    first = await columns(engine)
    await migrate(database_url)
    present = await columns(engine)
    dropped = {table: present[table] - first.get(table, set()) for table in present}
    expected = {table: present[table] if some is None else some for table, some in _NOT_IN_THE_FIRST.items()}
    assert {table: names for table, names in dropped.items() if names} == expected
    assert set(first) - set(present) == {"usage_records"}, "which is in ledger_entries"


async def columns(engine: AsyncEngine) -> dict[str, set[str]]:
    async with engine.connect() as connection:
        found = await connection.run_sync(tables_of)
    return {table.name: {column.name for column in table.columns} for table in found.sorted_tables}


async def test_a_narrowed_key_does_not_become_a_wide_one(engine: AsyncEngine, database_url: str) -> None:
    await migrate(database_url)
    narrow = "UPDATE api_keys SET scopes = '[\"READ\"]' WHERE tenant = 'acme'"
    async with engine.begin() as connection:
        await connection.execute(text(narrow))
    await downgrade(database_url, "v0001")
    async with engine.connect() as connection:
        open_keys = await connection.scalars(text("SELECT role FROM api_keys WHERE revoke_time IS NULL"))
        assert list(open_keys) == ["ADMIN"]


async def test_the_server_of_today_works_with_it(engine: AsyncEngine, database_url: str, tmp_path: Path) -> None:
    await migrate(database_url)
    today = create_engine_for(database_url)
    world = make_world(SqlUnitOfWorkFactory(today), tmp_path)
    world.clock.advance(86400)
    world.context.ids._count = 1000  # type: ignore[attr-defined]
    try:
        await reads_all(world)
        again = await submit(world.context, "acme")
        assert again.state is JobState.QUEUED
        assert (await tuning_jobs.get_tuning_job(world.context, again.name)).display_name == again.display_name
    finally:
        await world.context.drain()
        await today.dispose()


async def reads_all(world: World) -> None:
    context = world.context
    jobs = (await tuning_jobs.list_tuning_jobs(context, "tenants/acme", (), PageQuery())).items
    assert {job.display_name: job.state.name for job in jobs} == {
        "Done": "SUCCEEDED",
        "Failed": "FAILED",
        "Running": "RUNNING",
        "Cancelled": "CANCELLED",
        "Queued": "QUEUED",
    }
    done = next(job for job in jobs if job.display_name == "Done")
    [point, _] = (await tuning_jobs.list_metrics(context, done.name, PageQuery())).items
    assert (point.step, point.values["train_loss"]) == (1, 0.5)
    assert math.isnan(point.values["grad_norm"])
    alias = await adapters.get_alias(context, "tenants/acme/aliases/support")
    assert alias.adapter_digest == done.adapter_digest
    async with context.units(write=False) as unit:
        events = await unit.jobs.events(done.uid, 0, 100)
        sums = (await unit.ledger.settled_since(["acme"], datetime.min.replace(tzinfo=UTC)))["acme"]
    assert [event.sequence for event in events] == list(range(1, done.event_count + 1))
    assert (sums[Meter.ACCELERATOR_MILLISECONDS], sums[Meter.TRAINED_TOKENS]) == (1500, 99)
