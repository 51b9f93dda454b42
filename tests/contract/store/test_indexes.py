"""No query walks through a whole table, nor sorts one: each costs the same however much there is."""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from tests.contract.store import samples

from trellis.names import AdapterName, AliasName
from trellis.server.app.ledger_reading import LedgerRange
from trellis.server.app.ports import UnitOfWork, UnitOfWorkFactory
from trellis.server.domain.audit import AuditQuery
from trellis.server.domain.export import ExportState
from trellis.server.domain.tuning_job import JobState

SOME = [JobState.QUEUED, JobState.RUNNING]
UID = "uid-acme-1"


async def _lists(unit: UnitOfWork) -> None:
    await unit.tenants.list(10, None)
    await unit.api_keys.list("acme", 10, None)
    await unit.api_keys.list(None, 10, None)
    await unit.base_models.list(10, None)
    await unit.datasets.list("acme", 10, None)
    await unit.datasets.list_versions("acme", "faq", 10, None)
    await unit.jobs.list("acme", [], 1, None)
    await unit.jobs.list(None, [], 10, None)
    await unit.jobs.list("acme", SOME, 10, None)
    await unit.jobs.list(None, SOME, 10, None)
    await unit.jobs.metrics(UID, 10, None)
    await unit.jobs.checkpoints(UID, 10, None)
    await unit.adapters.list("acme", 10, None)
    await unit.adapters.list_aliases("acme", 10, None)
    await unit.exports.list("acme", 10, None)
    await unit.adapters.shares_of("acme", "0", 10, None)
    await unit.adapters.shared_with("acme", 10, None)
    for query in (AuditQuery("acme"), AuditQuery(None), AuditQuery(everything=True), AuditQuery("acme", principal="p")):
        await unit.audit.list(query, 10, None)
        await unit.audit.list(replace(query, after_sequence=5), 10, None)
    await unit.ledger.entries(LedgerRange("acme"), 10, None)
    await unit.ledger.entries(LedgerRange("acme", samples.NOW, samples.NOW), 10, None)
    await unit.ledger.entries(LedgerRange(start=samples.NOW), 10, None)
    await unit.ledger.entries(LedgerRange(), 10, None)
    await unit.ledger.entries(LedgerRange("acme", resource="tenants/acme/tuningJobs/job-1"), 10, None)


async def _next_pages(unit: UnitOfWork) -> None:
    for tenant in ("acme", None):
        for states in ([], SOME):
            page = await unit.jobs.list(tenant, states, 1, None)
            await unit.jobs.list(tenant, states, 1, page.next_cursor)


async def _look_ups(unit: UnitOfWork) -> None:
    await unit.tenants.get("acme")
    await unit.api_keys.get("acme", "key-1")
    await unit.api_keys.find("0")
    await unit.api_keys.find_all(["0", "1"])
    await unit.tenants.get_all(["acme", "globex"])
    await unit.base_models.get_all(["tiny", "other"])
    await unit.adapters.get_all([AdapterName("acme", "0" * 24), AdapterName("globex", "1" * 24)])
    await unit.adapters.get_aliased([AliasName("acme", "live"), AliasName("globex", "live")])
    await unit.base_models.default()
    await unit.base_models.users("tiny")
    await unit.datasets.users("acme", "faq")
    await unit.datasets.get_upload("acme", "faq", samples.SHA)
    await unit.datasets.get_report("acme", "faq", samples.SHA, "baseModels/tiny")
    await unit.jobs.get("acme", "job-1")
    await unit.jobs.get_by_uid(UID)
    await unit.jobs.events(UID, 0, 10)
    await unit.jobs.find_attempt("0")
    await unit.jobs.latest_checkpoint(UID)
    await unit.jobs.best_checkpoint(UID)
    await unit.jobs.get_checkpoint(UID, 1)
    await unit.jobs.checkpoint_keys_in_use("acme")
    await unit.jobs.read_log(UID, 0, 10)
    await unit.trainers.get("trainer-1")
    await unit.trainers.find("0")
    await unit.adapters.get("acme", "0")
    await unit.adapters.aliases_of("acme", "0")
    await unit.adapters.is_shared("acme", "0", "globex")
    await unit.exports.get("acme", "0")
    await unit.exports.get_by_uid("0")
    await unit.ledger.held("uid-acme-1")
    await unit.requests.get("scope", "id")
    await unit.used.open_jobs("acme", 10)
    await unit.used.deployed_adapters("acme", 10)
    await unit.used.accelerators("acme")
    await unit.used.dataset_bytes("acme")
    await unit.used.artifact_bytes("acme")
    await unit.used.cohort("research")
    await unit.rates.get("acme")


async def _loops(unit: UnitOfWork) -> None:
    await unit.jobs.in_states(SOME, 10)
    await unit.jobs.claim(SOME, samples.claim("one"), samples.NOW, 10)
    await unit.jobs.attempts_to_clean_up(10)
    await unit.jobs.expired_attempts(samples.NOW, 10)
    await unit.jobs.open_attempts(10)
    await unit.trainers.live()
    await unit.trainers.to_clean_up(10)
    await unit.trainers.last_ends([samples.trainer().base])
    await unit.trainers.open_attempts(["trainer-1"])
    await unit.trainers.ended_since(samples.NOW, 10)
    await unit.trainers.attempts_ended_since("trainer-1", samples.NOW)
    await unit.exports.in_state(ExportState.PENDING, 10)
    await unit.exports.to_clean_up(10)
    await unit.datasets.claim_report(samples.claim("one"), samples.NOW)
    await unit.datasets.stale_uploads(samples.NOW, 10)
    await unit.requests.prune(samples.NOW, 10)


async def _waiting(unit: UnitOfWork) -> None:
    await unit.jobs.marks([UID, "uid-acme-2"])
    await unit.trainers.marks(["trainer-1", "trainer-2"])
    await unit.leases.expire_time("deploy")
    await unit.leases.holds("deploy", "one")


@pytest.mark.parametrize("ask", [_lists, _next_pages, _look_ups, _loops, _waiting])
async def test_queries_go_through_indexes(ask: Any, engine: AsyncEngine, units: UnitOfWorkFactory) -> None:
    await samples.seed(units, samples.job(1), samples.job(2))
    asked: dict[str, Any] = {}

    def remember(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if not statement.startswith(("BEGIN", "INSERT", "EXPLAIN")):
            asked[statement] = parameters

    event.listen(engine.sync_engine, "before_cursor_execute", remember)
    async with units() as unit:
        await ask(unit)
    event.remove(engine.sync_engine, "before_cursor_execute", remember)
    assert asked
    plans = _plans_of_sqlite if engine.dialect.name == "sqlite" else _plans_of_postgresql
    async with engine.connect() as connection:
        wasteful = [found async for found in plans(connection, asked)]
    assert not wasteful, "\n".join(wasteful)


async def _plans_of_sqlite(connection: AsyncConnection, asked: Mapping[str, Any]) -> AsyncIterator[str]:
    """Those that walk through a table, or sort."""
    for statement, parameters in asked.items():
        for row in await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters):
            if _walks(row.detail, statement):
                yield f"{statement}\n  {row.detail}"


async def _plans_of_postgresql(connection: AsyncConnection, asked: Mapping[str, Any]) -> AsyncIterator[str]:
    """The same; the tables are small, so that the planner is told to leave them alone where it can."""
    for choice in ("seqscan", "bitmapscan", "sort"):
        await connection.execute(text(f"SET enable_{choice} = off"))
    for statement, parameters in asked.items():
        rows = (await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)).scalars().all()
        # PostgreSQL takes no order from an index under NULL: it sorts the platform's own keys, and the attempts that are open.
        may_sort = "UNION ALL" in statement or "IS NULL ORDER BY" in statement or "end_time IS NULL" in statement
        if any("Seq Scan on" in step or ("Sort " in step and not may_sort) for step in rows):
            yield "\n".join([statement, *rows])


def _walks(step: str, statement: str) -> bool:
    if re.match(
        r"SCAN (?!anon|\(subquery|CONSTANT ROW)", step
    ):  # a page of each state is merged; it is no longer than a page
        return "INDEX" not in step or "LIMIT" not in statement
    return "TEMP B-TREE" in step and "UNION ALL" not in statement
