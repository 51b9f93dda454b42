"""`trellis admin verify-isolation` against a server process: sound ones pass, and ones that were broken on purpose do not."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.server_process import Server

import trellis
from trellis.cli.main import trellis as cli
from trellis.isolation import CHECK_IDS, Finding, Options, Outcome, verify
from trellis.local.ports import free_ports

NEED_MODELS = {"caches.base", "caches.adapter", "neighbour.noise", "quotas.calls"}
"""What can't be tried without an engine."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path, *free_ports(2))
    yield found
    found.end()


def run(server: Server, *only: str) -> dict[str, Finding]:
    with server.client() as admin:
        report = verify(admin, Options(with_training=False, only=only), lambda _: None, lambda _: None)
        assert report.left_behind == ()
        assert not {tenant.name for tenant in admin.tenants.list()} & {f"tenants/{name}" for name in report.tenants}
    return {finding.check: finding for finding in report.findings}


def test_a_sound_server_is_isolated_and_the_command_says_so(server: Server, tmp_path: Path) -> None:
    server.start()
    server.until_ready()
    path = tmp_path / "report.json"
    shared = ["--endpoint", f"localhost:{server.grpc_port}", "--api-key-file", str(server.folder / "admin.key")]
    given = ["--no-training", "--metrics-url", f"http://127.0.0.1:{server.http_port}/metrics", "--report", str(path)]
    done = CliRunner().invoke(cli, [*shared, "admin", "verify-isolation", *given, "--format", "json"])
    said = json.loads(done.stdout)
    failed = {finding["check"]: finding["evidence"] for finding in said["findings"] if finding["outcome"] == "FAILED"}
    assert failed == {}
    assert done.exit_code == 0, done.output
    assert said["isolated"] is True
    assert json.loads(path.read_text()) == said
    assert {finding["check"] for finding in said["findings"] if finding["outcome"] == "SKIPPED"} == NEED_MODELS
    assert [finding["check"] for finding in said["findings"]] == list(CHECK_IDS)
    assert sum(finding["tries"] for finding in said["findings"]) > 1000
    with server.client() as admin:
        assert list(admin.tenants.list()) == []


DOOR_OPEN = """
from trellis.server.rpc.access import Access
Access.check_tenant = lambda *_: None
"""
MANY_HOLES = """
from dataclasses import replace
from trellis.server.app import authentication, pages, submission
from trellis.server.rpc import access

mark, caller_of = pages._mark, authentication._caller_of
pages._mark = lambda _, cursor: mark("", cursor)
authentication._caller_of = lambda key, *rest: caller_of(replace(key, revoke_time=None), *rest)
submission.require_names = lambda *_: None
access.require_scope = lambda *_: None
"""


@pytest.mark.parametrize(
    ("code", "expected", "sound"),
    [
        (DOOR_OPEN, {"names.denied", "names.alike", "names.tenants", "keys.escalation"}, {"names.keys", "keys.scopes"}),
        (
            MANY_HOLES,
            {"pages.tokens", "keys.revoked", "keys.scopes", "fields.references"},
            {"names.denied", "keys.escalation"},
        ),
    ],
    ids=["the door is open", "many holes"],
)
def test_what_is_broken_on_purpose_is_found(server: Server, code: str, expected: set[str], sound: set[str]) -> None:
    server.start(broken_by=code)
    server.until_ready()
    found = run(server, *expected, *sound)
    failed = {check for check, finding in found.items() if finding.outcome is Outcome.FAILED}
    assert failed == expected
    assert all(found[check].evidence for check in failed)


def test_a_check_that_there_is_none_of_is_refused_before_anything_is_made() -> None:
    with (
        trellis.Client("localhost:1", "k") as nobody,
        pytest.raises(trellis.InvalidArgument, match="no check 'nothing'"),
    ):
        verify(nobody, Options(only=("nothing",)), lambda _: None, lambda _: None)
