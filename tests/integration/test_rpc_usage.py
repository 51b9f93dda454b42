"""UsageService over a real socket: sums, entries, and a statement that its reader computes anew."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import update
from tests.rpc_server import Door, refusal

from trellis.server.app.context import AppSettings
from trellis.server.domain.ledger import EntryKind, LedgerEntry, Meter
from trellis.server.domain.prices import Prices
from trellis.server.store.tables import usage_hours
from trellis.statements import amount_nanos, entry_line
from trellis.v1 import usage_pb2 as pb
from trellis.v1.usage_pb2_grpc import UsageServiceStub

Group = pb.QueryUsageRequest.Group
JOB = "tenants/acme/tuningJobs/job-1"


@pytest.fixture
def settings() -> AppSettings:
    return AppSettings(prices=Prices("EUR"))


@pytest.fixture
async def door(door: Door) -> Door:
    """With what was used."""
    async with door.world.context.units() as unit:
        await unit.ledger.append(_entries(door.world.clock.now()))
        await unit.commit()
    return door


def _entries(now: datetime) -> list[LedgerEntry]:
    job = LedgerEntry(
        "acme",
        "h",
        EntryKind.HOLD,
        Meter.ACCELERATOR_MILLISECONDS,
        9000,
        now,
        "job-uid",
        JOB,
        base_model="baseModels/tiny",
    )
    call = LedgerEntry("acme", "", EntryKind.SETTLE, Meter.PROMPT_TOKENS, 100, now, base_model="baseModels/tiny")
    before = now - timedelta(days=40)
    return [
        job,
        replace(job, key="s", kind=EntryKind.SETTLE, quantity=8000, price_nanos=1_800_000_000),
        replace(job, key="r", kind=EntryKind.RELEASE, quantity=1000),
        replace(call, key="old", time=before),
        *(replace(call, key=f"c{n}", price_nanos=150_000_001, adapter="tenants/acme/adapters/a") for n in range(3)),
        replace(call, tenant="globex", key="c", quantity=7),
    ]


def _stamp(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


async def _ledger(door: Door, **fields: Any) -> list[pb.LedgerEntry]:
    stub, found, token = UsageServiceStub(door.channel), [], ""
    while True:
        request = pb.ListLedgerEntriesRequest(parent="tenants/acme", page_size=2, page_token=token, **fields)
        page: pb.ListLedgerEntriesResponse = await stub.ListLedgerEntries(request, metadata=door.key("member"))
        found += page.entries
        token = page.next_page_token
        if not token:
            return found


async def test_usage_is_summed_for_members_and_for_all_tenants_for_admins(door: Door) -> None:
    stub = UsageServiceStub(door.channel)
    request = pb.QueryUsageRequest(parent="tenants/acme", group_by=[Group.GROUP_TUNING_JOB, Group.GROUP_ADAPTER])
    answer = await stub.QueryUsage(request, metadata=door.key("member"))
    assert answer.currency == "EUR"
    assert [(row.meter, row.quantity, row.amount_nanos, row.tuning_job, row.adapter) for row in answer.rows] == [
        (pb.METER_PROMPT_TOKENS, 300, 45_000, "", "tenants/acme/adapters/a"),
        (pb.METER_ACCELERATOR_MILLISECONDS, 8000, 4_000_000, JOB, ""),
    ]
    everything = pb.QueryUsageRequest(
        parent="tenants/-",
        start_time=_stamp(door.world.clock.now() - timedelta(days=60)),
        group_by=[Group.GROUP_TENANT, Group.GROUP_DAY],
        page_size=1,
    )
    rows, token = [], ""
    for _ in range(4):
        everything.page_token = token
        page = await stub.QueryUsage(everything, metadata=door.key("admin"))
        rows += page.rows
        token = page.next_page_token
    assert not token
    assert [(row.tenant, row.quantity) for row in rows] == [
        ("tenants/acme", 100),
        ("tenants/acme", 8000),
        ("tenants/acme", 300),
        ("tenants/globex", 7),
    ]
    assert rows[0].time.ToDatetime(tzinfo=UTC) < rows[1].time.ToDatetime(tzinfo=UTC)


async def test_a_statement_is_computed_anew_by_its_reader(door: Door) -> None:
    stub = UsageServiceStub(door.channel)
    begin = door.world.clock.now() - timedelta(days=100)
    end = door.world.clock.now() + timedelta(seconds=1)
    request = pb.GetStatementRequest(name="tenants/acme", start_time=_stamp(begin), end_time=_stamp(end))
    statement = await stub.GetStatement(request, metadata=door.key("member"))
    assert statement.sums_agree
    assert statement == await stub.GetStatement(request, metadata=door.key("admin"))
    entries = await _ledger(door)
    assert statement.entry_count == len(entries) == 7
    digest = hashlib.sha256()
    for one in entries:
        kind, meter = pb.LedgerEntry.Kind.Name(one.kind), pb.Meter.Name(one.meter)
        digest.update(
            entry_line(
                one.sequence,
                one.time.ToDatetime(tzinfo=UTC),
                one.tenant,
                kind.removeprefix("KIND_"),
                meter.removeprefix("METER_"),
                one.quantity,
                one.price_nanos,
                one.tuning_job,
                one.adapter,
                one.base_model,
                one.key,
            )
        )
    assert statement.entries_sha256 == digest.hexdigest()
    assert [(line.meter, line.quantity, line.amount_nanos) for line in statement.lines] == [
        (pb.METER_ACCELERATOR_MILLISECONDS, 8000, amount_nanos(8000, 1_800_000_000, 3_600_000)),
        (pb.METER_PROMPT_TOKENS, 100, 0),
        (pb.METER_PROMPT_TOKENS, 300, 45_000),
    ]
    assert statement.amount_nanos == 4_045_000
    assert len(await _ledger(door, tuning_job=JOB)) == 3
    assert len(await _ledger(door, end_time=_stamp(door.world.clock.now() - timedelta(days=1)))) == 1


async def test_sums_that_do_not_agree_are_told(door: Door) -> None:
    async with door.world.context.units() as unit:
        await unit.ledger.append(
            [LedgerEntry("acme", "x", EntryKind.SETTLE, Meter.PROMPT_TOKENS, 1, door.world.clock.now())]
        )
        await unit._transaction.change(update(usage_hours).values(quantity=usage_hours.c.quantity + 1))  # type: ignore[attr-defined]
        await unit.commit()
    stub = UsageServiceStub(door.channel)
    statement = await stub.GetStatement(pb.GetStatementRequest(name="tenants/acme"), metadata=door.key("member"))
    assert not statement.sums_agree


@pytest.mark.parametrize(
    ("method", "who", "fields", "code"),
    [
        ("QueryUsage", "stranger", {"parent": "tenants/acme"}, "PERMISSION_DENIED"),
        ("QueryUsage", "member", {"parent": "tenants/-"}, "PERMISSION_DENIED"),
        ("ListLedgerEntries", "stranger", {"parent": "tenants/acme"}, "PERMISSION_DENIED"),
        ("GetStatement", "stranger", {"name": "tenants/acme"}, "PERMISSION_DENIED"),
        ("GetStatement", "admin", {"name": "tenants/nobody"}, "NOT_FOUND"),
        ("GetStatement", "admin", {"name": "tenants/-"}, "INVALID_ARGUMENT"),
        ("QueryUsage", "member", {"parent": "tenants/acme", "group_by": [99]}, "INVALID_ARGUMENT"),
        ("QueryUsage", "member", {"parent": "tenants/acme", "page_token": "x"}, "INVALID_ARGUMENT"),
        (
            "ListLedgerEntries",
            "member",
            {"parent": "tenants/acme", "start_time": Timestamp(seconds=9), "end_time": Timestamp(seconds=9)},
            "INVALID_ARGUMENT",
        ),
        (
            "GetStatement",
            "member",
            {"name": "tenants/acme", "end_time": Timestamp(seconds=253402300799)},
            "OK",
        ),
    ],
)
async def test_who_may_ask_for_what(door: Door, method: str, who: str, fields: dict[str, Any], code: str) -> None:
    kind = {"QueryUsage": pb.QueryUsageRequest, "ListLedgerEntries": pb.ListLedgerEntriesRequest}
    request = kind.get(method, pb.GetStatementRequest)(**fields)
    call = getattr(UsageServiceStub(door.channel), method)(request, metadata=door.key(who))
    if code == "OK":
        await call
        return
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert refusal(caught.value).code == code
