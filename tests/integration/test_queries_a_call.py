"""Each call asks the database as often over a thousand rows as over ten, and a late page costs what the first one does."""

import json
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from sqlalchemy import event, text, update
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.store import samples
from tests.many_rows import add_one_of_each, fill
from tests.rpc_server import Door, open_door
from tests.server_fakes import TINY, make_world

from trellis.artifacts import ADAPTER_FILES, FileFacts, Manifest
from trellis.server.app.ports import Page, UnitOfWork, UnitOfWorkFactory
from trellis.server.domain.tuning_job import JobState
from trellis.server.rpc.servicers import SERVICES
from trellis.server.store import tables

JOB = "tenants/acme/tuningJobs/job-1"
ADAPTER = samples.adapter(1).name
VERSION = f"tenants/acme/datasets/faq/versions/{samples.SHA}"
MANIFEST = Manifest("baseModels/tiny", "r1", samples.SHA, {name: FileFacts(samples.SHA, 1) for name in ADAPTER_FILES})
CALLS: dict[str, dict[str, Any]] = {
    "GetTenant": {"name": "tenants/acme"},
    "ListTenants": {},
    "CreateTenant": {"tenant_id": "new-NUMBER"},
    "GetQuotaStatus": {"name": "tenants/acme"},
    "GetApiKey": {"name": "tenants/acme/apiKeys/key-1"},
    "ListApiKeys": {"parent": "tenants/acme"},
    "CreateApiKey": {"parent": "tenants/acme", "api_key": {"role": "ROLE_MEMBER"}},
    "GetBaseModel": {"name": "baseModels/tiny"},
    "ListBaseModels": {},
    "CreateBaseModel": {"base_model_id": "new-NUMBER", "base_model": {"source": str(TINY)}},
    "GetDataset": {"name": "tenants/acme/datasets/faq"},
    "ListDatasets": {"parent": "tenants/acme"},
    "CreateDataset": {"parent": "tenants/acme", "dataset_id": "new-NUMBER"},
    "GetDatasetVersion": {"name": VERSION},
    "ListDatasetVersions": {"parent": "tenants/acme/datasets/faq"},
    "GetTuningJob": {"name": JOB},
    "ListTuningJobs": {"parent": "tenants/acme"},
    "CreateTuningJob": {"parent": "tenants/acme", "tuning_job": {"training_dataset": VERSION}},
    "ExplainTuningJob": {"name": JOB},
    "ListTuningJobMetrics": {"parent": JOB},
    "ListCheckpoints": {"parent": JOB},
    "GetCheckpoint": {"name": f"{JOB}/checkpoints/1"},
    "GetAdapter": {"name": ADAPTER},
    "ListAdapters": {"parent": "tenants/acme"},
    "GetAlias": {"name": "tenants/acme/aliases/live"},
    "ListAliases": {"parent": "tenants/acme"},
    "ListAdapterShares": {"parent": ADAPTER},
    "ListSharedAdapters": {"parent": "tenants/globex"},
    "GetExport": {"name": "tenants/acme/exports/export-1"},
    "ListExports": {"parent": "tenants/acme"},
    "CreateExport": {"parent": "tenants/acme", "export": {"source": ADAPTER}},
    "ListAuditEvents": {"parent": "tenants/acme"},
    "ListTrainers": {},
    "QueryUsage": {"parent": "tenants/acme"},
    "ListLedgerEntries": {"parent": "tenants/acme"},
    "GetStatement": {"name": "tenants/acme"},
}
"""Reads and creates by method; NUMBER becomes one that nobody had."""
ELSEWHERE = {
    "GetUpload": "as GetDatasetVersion; of an upload that was begun",
    "GetDatasetReport": "one row, and an object",
}
"""Reads that are left out, and why."""


@pytest.fixture
async def door(units: UnitOfWorkFactory, engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[Door]:
    world = make_world(units, tmp_path)
    await samples.seed(units, samples.job(1))
    await add_one_of_each(units)
    async with engine.begin() as connection:
        await connection.execute(update(tables.base_models).values(source=str(TINY)))
        await connection.execute(update(tables.adapters).values(manifest_json=MANIFEST.to_json().decode()))
    async with open_door(world) as opened:
        yield opened


class Counter:
    """What the database is asked."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.asked: list[str] = []
        event.listen(engine.sync_engine, "before_cursor_execute", self._remember)

    def _remember(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        self.asked.append(re.sub(r"\s+", " ", statement))

    def take(self) -> list[str]:
        asked, self.asked = self.asked, []
        return asked


async def call(door: Door, method: Any, number: int) -> Message:
    given = json.loads(json.dumps(CALLS[method.name]).replace("NUMBER", str(number)))
    request = GetMessageClass(method.input_type)(**given)
    path = f"/{method.containing_service.full_name}/{method.name}"
    answer = GetMessageClass(method.output_type)
    start = door.channel.unary_unary(path, type(request).SerializeToString, answer.FromString)
    try:
        return await start(request, metadata=door.key("admin"))
    except grpc.aio.AioRpcError as error:
        raise AssertionError(f"{method.name}: {error.details()}") from error


def methods() -> list[Any]:
    found = [method for service in SERVICES for method in service.descriptor.methods]
    return [method for method in found if method.name in CALLS]


def test_no_read_and_no_create_is_left_out() -> None:
    of_users = [service.descriptor for service in SERVICES if service.descriptor.name != "WorkerService"]
    names = [method.name for service in of_users for method in service.methods if not method.server_streaming]
    reads = {name for name in names if re.match(r"(Get|List|Create|Query|Explain)", name)}
    assert reads - CALLS.keys() - ELSEWHERE.keys() == set()


async def test_queries_a_call_do_not_grow(door: Door, engine: AsyncEngine) -> None:
    counter = Counter(engine)
    counts: list[dict[str, list[str]]] = []
    for number, (start, end) in enumerate(((10, 15), (15, 20), (20, 1010))):
        await fill(engine, start, end)  # the first time warms up
        counter.take()
        found = {}
        for method in methods():
            await call(door, method, number)
            found[method.name] = counter.take()
        counts.append(found)
    _, few, many = counts
    grown = {name: (len(few[name]), len(many[name])) for name in few if len(many[name]) != len(few[name])}
    assert not grown, "\n".join([str(grown), *(f"{name}:\n  " + "\n  ".join(many[name]) for name in grown)])


async def test_a_submission_holds_its_tenant_for_few_statements(door: Door, engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(update(tables.tenants).values(quota={"open_jobs": 500, "artifact_bytes": 10**12}))
    counter = Counter(engine)
    [method] = [one for one in methods() if one.name == "CreateTuningJob"]
    await call(door, method, 0)  # has the report made
    counter.take()
    await call(door, method, 1)
    asked = counter.take()
    reads_of_it = [place for place, one in enumerate(asked) if one.startswith("SELECT tenants.")]
    assert engine.dialect.name == "sqlite" or "FOR NO KEY UPDATE" in asked[reads_of_it[-1]]
    from_lock = asked[reads_of_it[-1] :]
    assert len(from_lock) <= 9, "\n".join(from_lock)


async def _next_page(unit: UnitOfWork, name: str, limit: int, cursor: str | None) -> Page[Any]:
    lists: dict[str, Callable[[], Awaitable[Page[Any]]]] = {
        "tenants": lambda: unit.tenants.list(limit, cursor),
        "jobs of a tenant": lambda: unit.jobs.list("acme", [], limit, cursor),
        "queued jobs of a tenant": lambda: unit.jobs.list("acme", [JobState.QUEUED], limit, cursor),
        "jobs of all tenants": lambda: unit.jobs.list(None, [], limit, cursor),
        "metrics": lambda: unit.jobs.metrics("uid-acme-1", limit, cursor),
        "datasets": lambda: unit.datasets.list("acme", limit, cursor),
        "versions": lambda: unit.datasets.list_versions("acme", "faq", limit, cursor),
        "adapters": lambda: unit.adapters.list("acme", limit, cursor),
        "aliases": lambda: unit.adapters.list_aliases("acme", limit, cursor),
        "exports": lambda: unit.exports.list("acme", limit, cursor),
    }
    return await lists[name]()


LISTS = (
    *("tenants", "jobs of a tenant", "queued jobs of a tenant", "jobs of all tenants", "metrics"),
    *("datasets", "versions", "adapters", "aliases", "exports"),
)


async def test_page_1000_costs_what_page_1_does(units: UnitOfWorkFactory, engine: AsyncEngine) -> None:
    await samples.seed(units, samples.job(1))
    await add_one_of_each(units)
    await fill(engine, 10, 3010)
    await _analyze(engine)
    for name in LISTS:
        first = await _cost(engine, units, name, None)
        async with units(write=False) as unit:
            cursor: str | None = None
            for _ in range(3):
                cursor = (await _next_page(unit, name, 999, cursor)).next_cursor
        assert cursor is not None
        late = await _cost(engine, units, name, cursor)
        assert late <= 1.2 * first + 20, f"{name}: {first} and {late}"


async def _analyze(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("ANALYZE"))


async def _cost(engine: AsyncEngine, units: UnitOfWorkFactory, name: str, cursor: str | None) -> int:
    """What a page of three costs: rows that PostgreSQL reads, or instructions of SQLite's machine."""
    asked: list[tuple[str, Any]] = []

    def remember(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            asked.append((statement, parameters))

    event.listen(engine.sync_engine, "before_cursor_execute", remember)
    async with units(write=False) as unit:
        page = await _next_page(unit, name, 3, cursor)
    event.remove(engine.sync_engine, "before_cursor_execute", remember)
    assert len(page.items) == 3
    if engine.dialect.name == "sqlite":
        return sum(_instructions(str(engine.url.database), *each) for each in asked)
    rows = 0
    async with engine.connect() as connection:
        for statement, parameters in asked:
            explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
            [[[plan]]] = (await connection.exec_driver_sql(explain, parameters)).all()
            rows += _rows_read(plan["Plan"])
    return rows


def _instructions(path: str, statement: str, parameters: Any) -> int:
    count = 0

    def step() -> None:
        nonlocal count
        count += 1

    with closing(sqlite3.connect(path)) as connection:
        connection.set_progress_handler(step, 1)
        connection.execute(statement, parameters).fetchall()
    return count


def _rows_read(plan: dict[str, Any]) -> int:
    if "Plans" in plan:
        return sum(_rows_read(child) for child in plan["Plans"])
    read = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
    return int(read * plan["Actual Loops"])
