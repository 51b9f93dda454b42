"""`trellis usage`: sums, the ledger, statements, and that they are computed anew."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.fake_server import FakeServer
from tests.unit.cli.conftest import Ran

from trellis.v1 import usage_pb2 as pb

Run = Callable[..., Ran]
BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
JOB = "tenants/acme/tuningJobs/job-1"


def entry(sequence: int, quantity: int, **fields: Any) -> pb.LedgerEntry:
    made = pb.LedgerEntry(
        sequence=sequence,
        tenant="tenants/acme",
        kind=pb.LedgerEntry.KIND_SETTLE,
        meter=pb.METER_PROMPT_TOKENS,
        quantity=quantity,
        price_nanos=150_000_001,
        price_units=1_000_000,
        key=f"k{sequence}",
        base_model="baseModels/tiny",
    )
    made.MergeFrom(pb.LedgerEntry(**fields))
    made.time.FromDatetime(BEGIN + timedelta(hours=sequence))
    return made


@pytest.fixture(autouse=True)
def _entries(server: FakeServer) -> None:
    milliseconds = {"meter": pb.METER_ACCELERATOR_MILLISECONDS, "price_nanos": 1_800_000_000, "price_units": 3_600_000}
    server.usage.entries = [
        entry(1, 9_000_000, kind=pb.LedgerEntry.KIND_HOLD, tuning_job=JOB, **milliseconds),
        entry(2, 7_200_000, tuning_job=JOB, **milliseconds),
        entry(3, 1_234_567),
        entry(12, 5, adapter="tenants/acme/adapters/a"),
        entry(13, 1, tenant="tenants/b"),
    ]


def test_usage_is_shown_with_what_it_costs(trellis: Run) -> None:
    shown = [line.split("   ") for line in trellis("usage", "show").out.splitlines()]
    cells = [[part.strip() for part in line if part.strip()] for line in shown]
    assert cells == [
        ["WHAT", "USED", "PRICE", "AMOUNT"],
        ["accelerator hours", "2.000000", "1.80 EUR / 3,600,000", "3.60 EUR"],
        ["prompt tokens", "1,234,572", "0.150000001 EUR / 1,000,000", "0.185185801 EUR"],
    ]
    rows = trellis("usage", "show", "--by", "job", "--by", "day", "--format", "json").json
    assert [(row["time"], row["tuning_job"], row["quantity"]) for row in rows] == [
        ("2026-03-01T00:00:00Z", "", 1_234_567),
        ("2026-03-01T00:00:00Z", JOB, 7_200_000),
        ("2026-03-02T00:00:00Z", "", 5),
    ]
    assert "TUNING JOB" in trellis("usage", "show", "--by", "job").out.splitlines()[0]
    whole = trellis("usage", "show", "--all", "--by", "tenant", "--format", "json").json
    assert {row["tenant"] for row in whole} == {"tenants/acme", "tenants/b"}
    some = trellis("usage", "show", "--since", "2026-03-02", "--until", "2026-03-02T00:30", "--format", "json").json
    assert [row["quantity"] for row in some] == [5]


def test_the_ledger_is_listed(trellis: Run) -> None:
    assert [one["sequence"] for one in trellis("usage", "ledger", "--format", "json").json] == [1, 2, 3, 12]
    assert [one["kind"] for one in trellis("usage", "ledger", "--job", "job-1", "--format", "json").json] == [
        "HOLD",
        "SETTLE",
    ]
    assert len(trellis("usage", "ledger", "--limit", "1").out.splitlines()) == 2


def test_a_statement_is_shown_and_verified(trellis: Run, server: FakeServer) -> None:
    shown = trellis("usage", "statement", "acme", "--since", "2026-03-01").out
    assert "3.785185801 EUR" in shown
    assert "sums agree  yes" in shown
    done = trellis("usage", "verify", "acme", "--since", "2026-03-01")
    assert done.code == 0
    assert "agrees with its 4 entries" in done.err
    server.usage.sums_agree = False
    wrong = trellis("usage", "verify", "acme", "--format", "json")
    assert wrong.code == 1
    assert wrong.json["agrees"] is False
    assert wrong.json["differences"] == [
        "The server's hourly sums, from which usage is shown, differ from the entries."
    ]


def test_a_statement_that_hides_an_entry_is_found_out(trellis: Run, server: FakeServer) -> None:
    server.usage.hidden = {2}
    wrong = trellis("usage", "verify", "acme", "--format", "json")
    assert wrong.code == 1
    assert len(wrong.json["differences"]) == 3
    assert wrong.json["differences"][0] == "The statement is made of 4 entries, and the ledger has 3."
