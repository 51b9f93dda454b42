"""`trellis audit`: lists, and exports that go on where they ended."""

import json
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.fake_server import FakeServer
from tests.unit.cli.conftest import Ran

from trellis.v1 import access_pb2
from trellis.v1.audit_pb2 import AuditEvent

Run = Callable[..., Ran]
BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)


def event(sequence: int, minutes: float = 0, tenant: str = "tenants/acme", **fields: Any) -> AuditEvent:
    made = AuditEvent(
        sequence=sequence,
        tenant=tenant,
        principal="platform/apiKeys/key-1",
        role=access_pb2.ROLE_ADMIN,
        method="/trellis.v1.TenantService/UpdateTenant",
        resource=tenant,
        source="192.0.2.1",
        request_id=f"call-{sequence}",
        status="OK",
        **fields,
    )
    made.time.FromDatetime(BEGIN + timedelta(minutes=minutes))
    made.before.update({"display_name": "Old"})
    made.after.update({"display_name": "New", "quota.budgets": [{"hard_limit": 5}]})
    return made


@pytest.fixture(autouse=True)
def _events(server: FakeServer) -> None:
    server.audit.events = [event(number) for number in range(1, 6)] + [
        event(6, tenant=""),
        event(7, tenant="tenants/b"),
    ]


def sequences(lines: list[Any]) -> list[int]:
    return [line["sequence"] for line in lines]


def exported(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_are_listed_newest_first(trellis: Run) -> None:
    listed = trellis("audit", "list", "--format", "json").json
    assert sequences(listed) == [5, 4, 3, 2, 1]
    assert listed[0] == {
        "sequence": 5, "time": "2026-03-01T12:00:00Z", "tenant": "tenants/acme", "principal": "platform/apiKeys/key-1",
        "role": "ADMIN", "method": "/trellis.v1.TenantService/UpdateTenant", "resource": "tenants/acme",
        "source": "192.0.2.1", "request_id": "call-5", "status": "OK", "before": {"display_name": "Old"},
        "after": {"display_name": "New", "quota.budgets": [{"hard_limit": 5}]},
    }  # fmt: skip
    assert sequences(trellis("audit", "list", "--limit", "2", "--format", "json").json) == [5, 4]
    assert sequences(trellis("audit", "list", "--platform", "--format", "json").json) == [6]
    assert sequences(trellis("audit", "list", "--all", "--format", "json").json) == [7, 6, 5, 4, 3, 2, 1]
    shown = trellis("audit", "list").out.splitlines()
    assert shown[0].split() == [
        *("SEQUENCE", "TIME", "PRINCIPAL", "METHOD", "RESOURCE", "STATUS", "SOURCE", "BEFORE", "AFTER")
    ]
    assert "192.0.2.1" in shown[1]


def test_filters_are_sent(trellis: Run, server: FakeServer) -> None:
    arguments = ("--since", "2026-03-01", "--until", "2026-03-02T01:00:00+01:00", "--method", "UpdateTenant")
    assert trellis("audit", "list", *arguments, "--principal", "p", "--resource", "tenants/acme").code == 0
    sent = server.audit.requests[-1]
    assert (sent.parent, sent.method, sent.principal, sent.resource) == (
        "tenants/acme", "UpdateTenant", "p", "tenants/acme",
    )  # fmt: skip
    assert sent.start_time.ToDatetime() == datetime(2026, 3, 1)  # noqa: DTZ001 - protobuf gives UTC without a zone
    assert sent.end_time.ToDatetime() == datetime(2026, 3, 2)  # noqa: DTZ001
    assert trellis("audit", "list", "--since", "yesterday").code == 2
    assert trellis("audit", "list", "--all", "--platform").code == 2


def test_an_export_has_every_event_once_and_goes_on_where_it_ended(
    trellis: Run, server: FakeServer, tmp_path: Path
) -> None:
    file = tmp_path / "trail.jsonl"
    first = trellis("audit", "export", str(file), "--format", "json").json
    assert first == {"file": str(file), "events": 5, "last_sequence": 5}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "Added 0 events" in trellis("audit", "export", str(file)).err
    server.audit.events.append(event(8, minutes=3))
    assert "Added 1 events" in trellis("audit", "export", str(file)).err
    assert sequences(exported(file)) == [1, 2, 3, 4, 5, 8]
    assert exported(file)[0] == trellis("audit", "list", "--format", "json").json[-1]


def test_what_was_committed_late_is_fetched_by_the_next_export(
    trellis: Run, server: FakeServer, tmp_path: Path
) -> None:
    file = tmp_path / "trail.jsonl"
    server.audit.events = [event(1), event(9, minutes=30), event(11, minutes=35)]
    trellis("audit", "export", str(file))
    server.audit.events.insert(2, event(10, minutes=34))
    trellis("audit", "export", str(file))
    assert sequences(exported(file)) == [1, 9, 11, 10]
    assert server.audit.requests[-1].after_sequence == 8, "and not the whole trail again"


def test_half_a_line_of_an_export_that_was_killed_is_made_whole(
    trellis: Run, server: FakeServer, tmp_path: Path
) -> None:
    file = tmp_path / "trail.jsonl"
    trellis("audit", "export", str(file))
    file.write_bytes(file.read_bytes()[:-40])
    trellis("audit", "export", str(file))
    assert sequences(exported(file)) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("text", ["not JSON\n", "[1]\n", '{"a": 1}\n'])
def test_a_file_of_something_else_is_left_alone(trellis: Run, tmp_path: Path, text: str) -> None:
    file = tmp_path / "other"
    file.write_text(text)
    refused = trellis("audit", "export", str(file))
    assert refused.code == 1
    assert "is no export of audit events" in refused.err
    assert file.read_text() == text
