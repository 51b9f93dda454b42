"""`trellis exports`, as a table and as JSON."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fake_server import FakeServer
from tests.fake_server.exports import FILES
from tests.unit.cli.conftest import Ran

Run = Callable[..., Ran]
NAME = "tenants/acme/exports/mine"


@pytest.fixture(autouse=True)
def _at_once(server: FakeServer) -> None:
    server.exports.polls_until_made = 0


def test_an_export_from_begin_to_end(trellis: Run, tmp_path: Path) -> None:
    made = trellis("exports", "create", "support", "--export-id", "mine", "--display-name", "Mine", "--format", "json")
    assert (made.json["name"], made.json["state"], made.json["format"]) == (NAME, "PENDING", "SAFETENSORS")
    assert made.json["source"] == "tenants/acme/aliases/support"
    done = trellis("exports", "wait", "mine", "--format", "json").json
    assert done["state"] == "SUCCEEDED"
    assert trellis("exports", "show", "mine", "--format", "json").json == done
    assert trellis("exports", "list", "--format", "json").json == [done]
    files = trellis("exports", "download", "mine", "-o", str(tmp_path / "out"), "--format", "json").json["files"]
    assert {Path(file).relative_to(tmp_path / "out").as_posix(): Path(file).read_bytes() for file in files} == FILES
    assert trellis("exports", "delete", "mine", "--format", "json").json == {"deleted": "mine"}
    assert trellis("exports", "show", "mine").code == 1


def test_tables(trellis: Run) -> None:
    trellis("exports", "create", "support", "--export-id", "mine")
    assert "PENDING" in trellis("exports", "list").out
    shown = trellis("exports", "wait", "mine").out
    assert "SUCCEEDED" in shown
    assert [line.split()[0] for line in shown.splitlines()[-3:]] == list(FILES)
    head, row = trellis("exports", "list").out.splitlines()
    assert head.split() == ["NAME", "STATE", "SOURCE", "SIZE", "CREATE", "TIME"]
    assert row.startswith(f"{NAME}   SUCCEEDED")
    assert "10.0 KiB" in row


def test_create_waits_and_downloads_when_asked(trellis: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = trellis("exports", "create", "support", "--export-id", "mine", "--download", str(tmp_path / "model"))
    assert ran.err == f"Asked for {NAME}.\n"
    assert (tmp_path / "model/model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert trellis("exports", "create", "support", "--wait", "--format", "json").json["state"] == "SUCCEEDED"
    monkeypatch.chdir(tmp_path)
    listed = trellis("exports", "download", NAME).out.splitlines()
    assert listed == [f"mine/{path}" for path in FILES]
    assert (tmp_path / "mine/config.json").is_file()


def test_one_that_fails_ends_with_code_1_and_says_why(trellis: Run, server: FakeServer) -> None:
    server.exports.fails = "The adapter is too small."
    trellis("exports", "create", "support", "--export-id", "mine")
    ended = trellis("exports", "wait", "mine")
    assert (ended.code, ended.out) == (1, "")
    assert "The adapter is too small." in ended.err
    assert "The adapter is too small." in trellis("exports", "show", "mine").out
    assert trellis("exports", "download", "mine").code == 1
    server.exports.polls_until_made = 1000
    trellis("exports", "create", "support", "--export-id", "slow")
    assert trellis("exports", "wait", "slow", "--timeout", "0.01").code == 1
