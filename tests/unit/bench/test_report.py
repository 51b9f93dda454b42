"""Rows of the benchmarks, as JSON and as a table."""

import argparse
import importlib.metadata
import json
from pathlib import Path

import pytest
from tests.bench.report import Machine, Row, Sheet, output_options, versions
from tests.bench.report.machine import processor_of
from tests.bench.report.sheet import table

MACHINE = Machine("A processor", 2, 16.0, "", "Linux x86_64", 0.5)
ROWS = [Row("accuracy", 0.9, "share", "plain", 0.8), Row("start", 12.0, "s")]


def sheet(*, quick: bool = False) -> Sheet:
    return Sheet("quality", "2026-01-02", quick, MACHINE, {"python": "3.11.0"}, {"epochs": 3}, list(ROWS))


def test_a_row_has_the_peers_value_and_the_ratio() -> None:
    assert ROWS[0].to_json() == {
        "name": "accuracy",
        "value": 0.9,
        "unit": "share",
        "peer": "plain",
        "peer_value": 0.8,
        "ratio": 1.125,
    }


def test_without_a_peer_there_are_nulls() -> None:
    written = ROWS[1].to_json()
    assert (written["peer"], written["peer_value"], written["ratio"]) == (None, None, None)


def test_a_ratio_to_zero_is_none() -> None:
    row = Row("exact", 0.5, "share", "plain", 0.0)
    assert row.ratio is None
    assert row.to_json()["peer_value"] == 0.0


def test_values_are_written_with_six_digits() -> None:
    assert Row("seconds", 1.23456789, "s").to_json()["value"] == 1.23457


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": float("nan")},
        {"value": float("inf")},
        {"unit": ""},
        {"name": ""},
        {"peer": "plain"},
        {"peer_value": 1.0},
    ],
)
def test_half_a_row_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(AssertionError):
        Row(**{"name": "n", "value": 1.0, "unit": "s", **wrong})  # type: ignore[arg-type]


def test_a_sheet_is_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "made" / "quality.json"
    sheet().publish(file)
    written = json.loads(file.read_text())
    assert set(written) == {"bench", "date", "quick", "machine", "versions", "settings", "rows"}
    assert written["machine"]["cores"] == 2
    assert [row["name"] for row in written["rows"]] == ["accuracy", "start"]
    assert "accuracy" in capsys.readouterr().out


def test_without_a_file_it_is_only_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet(quick=True).publish(None)
    assert "quick" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_numbers_stand_under_each_other() -> None:
    head, first, second = table(ROWS)
    assert head.index("Trellis") + len("Trellis") == first.index("0.9") + 3 == second.index("12") + 2
    assert first.endswith("1.12")


def test_every_benchmark_has_the_same_options() -> None:
    parser = argparse.ArgumentParser()
    output_options(parser)
    given = parser.parse_args(["--quick", "--json", "x.json"])
    assert (given.quick, given.json) == (True, Path("x.json"))


def test_this_machine_is_described_without_its_name() -> None:
    machine = Machine.this()
    assert machine.cores >= 1
    assert machine.memory_gib > 0
    assert machine.processor


def test_the_processor_is_read_or_else_the_architecture() -> None:
    assert processor_of("processor : 0\nmodel name\t: Fast 9000\n") == "Fast 9000"
    assert processor_of("CPU implementer : 0x41\n")


def test_versions_are_those_installed() -> None:
    assert versions(["pytest"])["pytest"] == pytest.__version__
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        versions(["no-such-distribution"])
