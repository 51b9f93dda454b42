"""Claims of the training benchmark, what was found of them, and how it is shown."""

import json
from pathlib import Path

import pytest
from tests.bench.report import Machine
from tests.bench.training_rig import ready, steps
from tests.bench.training_rig.claims import CLAIMS, Judged
from tests.bench.training_rig.crowd import Crowd, Ready
from tests.bench.training_rig.finding import Finding, Point
from tests.bench.training_rig.plot import draw
from tests.bench.training_rig.sheet import Book, PartSheet, write
from tests.bench.training_rig.steps import OURS, THEIRS, Case, Timed
from tests.bench.training_rig.tenant import Recipe, Tuned, draw_tenants
from tests.bench.training_rig.texts import SHORT

BARS = {
    "tenants8_submit_to_ready_speedup": "≥ 5",
    "step_n32_t16_speedup": "≥ 3",
    "step_saturated_ratio": "≥ 0.95",
    "warm_first_step_seconds": "≤ 1",
    "bytes_per_lora_parameter": "≤ 18.9",
}
POINTS = [Point("steps", OURS, tenants, "16", "same", 100.0 * tenants, "tok/s") for tenants in (1, 8)] + [
    Point("steps", THEIRS, 1, "16", "same", 90.0, "tok/s")
]


def sheet(part: str = "steps", *findings: Finding) -> PartSheet:
    machine = Machine("A processor", 2, 16.0, "", "Linux x86_64", 0.5)
    return PartSheet(
        part,
        "2026-01-02",
        False,
        machine,
        {"python": "3.11"},
        {"threads": 2},
        "the command",
        findings,
        POINTS,
        ["x is out."],
    )


def done(seconds: float, loss: float = 2.0) -> Ready:
    return Ready(seconds, [Tuned([loss] * 9, seconds)], 100)


def test_the_rows_that_others_rely_on_are_there_with_their_bars() -> None:
    assert {name: str(CLAIMS[name].bar) for name in BARS} == BARS
    assert "distributed_two_over_one_workers" in CLAIMS
    assert all(claim.expected and bool(claim.peer) == (claim.judged is not Judged.VALUE) for claim in CLAIMS.values())


def test_seconds_are_judged_the_other_way_round() -> None:
    found = Finding.of(
        "tenants8_submit_to_ready_speedup", [10.0, 20.0, 10.0], [60.0, 60.0, 55.0], "equal work"
    ).to_json()
    assert (found["result"], found["result_min"], found["result_max"]) == (5.5, 3.0, 6.0)
    assert (found["value"], found["peer_value"], found["passed"], found["note"]) == (10.0, 60.0, True, "equal work")


def test_rates_are_ours_over_the_peers() -> None:
    found = Finding.of("step_n32_t16_speedup", [290.0], [100.0]).to_json()
    assert (found["result"], found["passed"]) == (2.9, False)


def test_a_value_stands_for_itself() -> None:
    found = Finding.of("warm_first_step_seconds", [0.4, 1.2, 0.6]).to_json()
    assert (found["result"], found["peer"], found["peer_value"], found["passed"]) == (0.6, None, None, True)
    with pytest.raises(AssertionError):
        Finding.of("warm_first_step_seconds", [0.4], [0.4])


def test_ready_has_a_row_for_every_system_that_ran() -> None:
    found = {ready.COLD: [done(20.0)], ready.WARM: [done(10.0)], ready.PROCESSES: [done(60.0, loss=1.0)]}
    crowd = Crowd(draw_tenants(8, "same"), "same", SHORT, Recipe(), [], 100, 20000)
    rows = {finding.claim.name: finding for finding in ready.headline(found, crowd, [0.5])}
    assert list(rows) == [
        "tenants8_submit_to_ready_speedup",
        "tenants8_submit_to_ready_speedup_cold",
        "warm_first_step_seconds",
    ]
    assert rows["tenants8_submit_to_ready_speedup"].result == 6.0
    note = rows["tenants8_submit_to_ready_speedup"].note
    assert note.startswith("8 tenants, 100 short lines each, same adapters; NOT EQUAL WORK")


def test_steps_have_their_rows_and_say_whether_the_losses_agree() -> None:
    def timed(ours: float, theirs: float, loss: float) -> Timed:
        return Timed({OURS: [ours], THEIRS: [theirs]}, {OURS: [loss, 2.0], THEIRS: [1.0, 2.0]})

    found = {
        Case(32, 16, "same"): timed(300.0, 100.0, 1.0001),
        Case(32, 16, "mixed"): timed(270.0, 100.0, 1.0),
        Case(8, 256, "same"): timed(99.0, 100.0, 1.2),
        Case(1, 16, "same"): timed(1.0, 1.0, 1.0),
    }
    rows = {finding.claim.name: finding for finding in steps._findings(found)}
    assert {name: row.result for name, row in rows.items()} == {
        "step_n32_t16_speedup": 3.0,
        "step_saturated_ratio": 0.99,
        "step_mixed_over_same": 0.9,
    }
    assert rows["step_n32_t16_speedup"].note.startswith("equal work")
    assert rows["step_saturated_ratio"].note.startswith("NOT EQUAL WORK")
    assert len(list(steps._points(found))) == 8


def test_a_part_that_is_measured_again_replaces_its_old_self(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "made/training.json"
    book = Book.read(file)
    book.add(sheet("steps", Finding.of("step_n32_t16_speedup", [250.0], [100.0])))
    write(book, file, draw(book.parts))
    book.print()
    page = file.with_suffix(".md")
    page.write_text(page.read_text().replace("Not yet measured.", "- It was slow, and here is why."))

    book = Book.read(file)
    book.add(sheet("ready", Finding.of("warm_first_step_seconds", [0.5])))
    book.add(sheet("steps", Finding.of("step_n32_t16_speedup", [350.0], [100.0], "equal work")))
    write(book, file, draw(book.parts))
    book.print()

    parts = json.loads(file.read_text())["parts"]
    assert [row["result"] for name in ("steps", "ready") for row in parts[name]["rows"]] == [3.5, 0.5]
    text = page.read_text()
    assert "| `step_n32_t16_speedup` | 3.5 |" in text
    assert "| `warm_first_step_seconds` | 0.5 |" in text
    assert "| 8 | 16 | same | 800 |  |" in text
    assert CLAIMS["step_saturated_ratio"].expected in text
    assert text.count("- It was slow, and here is why.") == 1
    assert "Not yet measured." not in text
    assert file.with_suffix(".svg").read_text().startswith("<?xml")
    printed = capsys.readouterr().out
    assert "MISSED" in printed
    assert "step_n32_t16_speedup: equal work" in printed


def test_what_was_not_measured_is_said() -> None:
    page = Book().page("")
    assert page.count("Not yet measured.") == 2
    assert all(f"`{name}` ({bar})" in page for name, bar in BARS.items())


def test_without_a_file_it_is_only_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = Book()
    book.add(sheet())
    write(book, None, "")
    book.print()
    assert "x is out." in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_plot_is_the_same_each_time() -> None:
    book = Book()
    book.add(sheet())
    assert draw(book.parts) == draw(book.parts)
    assert not draw({})
