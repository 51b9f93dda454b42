"""The root: lazy, and the one place that says what went wrong."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import grpc
import pytest
from tests.fake_server import FakeServer
from tests.unit.cli.conftest import Ran

from trellis.cli import errors
from trellis.cli.commands import Command, Group
from trellis.cli.main import COMMANDS
from trellis.errors import FieldViolation, InvalidArgument, Reason

Run = Callable[..., Ran]
OURS = ("tenants", "keys", "base-models", "datasets", "jobs", "adapters", "generate", "admin", "config", "version")


def test_help_lists_every_command_and_imports_none() -> None:
    code = (
        "import sys; from trellis.cli.main import run; run(['--help'])\n"
        "print([m for m in ('grpc', 'rich', 'trellis.client', 'trellis.cli.jobs', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    *shown, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    for name in COMMANDS:
        assert any(line.strip().startswith(name) for line in shown), name


def every_command() -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []

    def walk(path: str, command: click.Command) -> None:
        if isinstance(command, click.Group):
            assert isinstance(command, Group), path
            for name, inner in command.commands.items():
                walk(f"{path} {name}", inner)
        else:
            found.append((path, command))

    for name in OURS:
        walk(name, COMMANDS[name].load())
    return found


def test_every_command_takes_the_shared_options_and_has_help() -> None:
    commands = every_command()
    assert len(commands) > 40
    for path, command in commands:
        assert isinstance(command, Command), path
        flags = {flag for parameter in command.params for flag in parameter.opts}
        assert {"--format", "--endpoint", "--profile", "--tenant", "--api-key-file"} <= flags, path
        assert command.help, path
        assert "--api-key" not in flags, path


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "demo"])
def test_each_command_loads_and_says_what_it_is(offline: Run, command: str) -> None:
    shown = offline(command, "--help")
    assert shown.code == 0
    assert f"trellis {command}" in shown.out


def test_format_may_come_first_for_every_command(offline: Run, tmp_path: Path) -> None:
    ran = offline("--format", "json", "status", "--data-dir", str(tmp_path))
    assert (ran.code, ran.json["state"]) == (1, "DOWN")


def test_many_wrong_fields_are_a_list(trellis: Run, server: FakeServer) -> None:
    wrong = (FieldViolation("a", "It is 1."), FieldViolation("b", "It is 2."))
    server.faults.plan("ListTenants", InvalidArgument.for_fields(wrong))
    ran = trellis("tenants", "list")
    assert ran.err == "Error: 2 fields are wrong. [INVALID_FIELD]\n  a: It is 1.\n  b: It is 2.\n"


def test_an_error_is_a_sentence_with_its_reason(trellis: Run) -> None:
    ran = trellis("tenants", "get", "nobody")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "Error: tenants/nobody does not exist. [RESOURCE_NOT_FOUND]\n"


def test_an_error_as_json(trellis: Run) -> None:
    ran = trellis("tenants", "get", "nobody", "--format", "json")
    assert json.loads(ran.err)["error"] == {
        "status": "NOT_FOUND",
        "reason": "RESOURCE_NOT_FOUND",
        "message": "tenants/nobody does not exist.",
        "violations": [],
        "quota_violations": [],
        "metadata": {"resource": "tenants/nobody"},
        "retry_after": None,
        "request_id": "req-1",
    }


def test_each_wrong_field_is_named(trellis: Run, server: FakeServer) -> None:
    wrong = (FieldViolation("rank", "0 is not between 1 and 256."), FieldViolation("epochs", "0 is too few."))
    server.faults.plan("CreateTuningJob", InvalidArgument(Reason.INVALID_FIELD, "Two are wrong.", violations=wrong))
    ran = trellis("jobs", "create", "--dataset", "d", "--rank", "0", "--epochs", "0")
    assert ran.code == 1
    assert "rank: 0 is not between 1 and 256." in ran.err
    assert "epochs: 0 is too few." in ran.err


def test_a_wrong_command_line_ends_with_2(offline: Run) -> None:
    ran = offline("tenants", "lst")
    assert ran.code == 2
    assert "Did you mean" in ran.err
    ran = offline("jobs", "create", "--format", "json")
    assert ran.code == 2
    assert json.loads(ran.err)["error"]["reason"] == "USAGE"
    assert offline("nothing").code == 2


def test_an_interrupt_ends_with_130() -> None:
    assert errors.report(click.exceptions.Abort(), as_json=False) == 130
    assert errors.report(click.exceptions.Exit(1), as_json=False) == 1


def test_a_fault_of_the_servers_names_its_request(trellis: Run, server: FakeServer) -> None:
    server.faults.plan("ListTenants", grpc.StatusCode.INTERNAL)
    ran = trellis("tenants", "list")
    assert (ran.code, ran.err) == (1, "Error: a fault [INTERNAL]\n")


def test_missing_settings_are_said(offline: Run) -> None:
    assert "Which tenant?" in offline("datasets", "list").err
    assert "There is no profile 'nope'" in offline("datasets", "list", "--profile", "nope").err
    assert "can't be read" in offline("datasets", "list", "--api-key-file", "/nowhere").err


def test_a_reader_that_goes_away_gets_no_traceback() -> None:
    code = "from trellis.cli.main import main; main(['--help'])"
    command = f'{sys.executable} -c "{code}" | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode in {0, 1}, done.stderr) == (True, "")
