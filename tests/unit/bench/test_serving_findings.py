"""Claims, what was found of them, and how it is shown."""

import json
from pathlib import Path

import pytest
from tests.bench.report import Machine
from tests.bench.serving_rig import headline
from tests.bench.serving_rig.claims import CLAIMS, Bar
from tests.bench.serving_rig.drive import Timing
from tests.bench.serving_rig.finding import Finding, Point
from tests.bench.serving_rig.flood import FLOOD, LIGHT, shares
from tests.bench.serving_rig.plot import draw_points
from tests.bench.serving_rig.sheet import ServingSheet, publish, shown
from tests.bench.serving_rig.workload import Ask, Workload

NAMED = {
    "adapters16_over_base",
    "adapters16_over_peft_mixed",
    "adapters16_over_vllm_cpu",
    "base_over_vllm_cpu",
    "ttft_oversubscribed_over_resident",
    "ray_serve_over_engine",
}
POINTS = [
    Point("Trellis", 0, 4, 500.0, 0.1),
    Point("Trellis", 16, 4, 450.0, 0.2),
    Point("PEFT mixed", 16, 4, 99.5, None),
]


def sheet(*, quick: bool = False) -> ServingSheet:
    findings = [
        Finding.of("adapters16_over_base", [80.0, 90.0, 95.0], [100.0, 100.0, 100.0]),
        Finding.of("flood_share_error", [0.2], [0.8]),
        Finding.of("base_over_transformers", [150.0], [100.0]),
    ]
    machine = Machine("A processor", 2, 16.0, "", "Linux x86_64", 0.5)
    return ServingSheet(
        "2026-01-02", quick, machine, {"python": "3.11"}, {"threads": 2}, ["x was left out."], findings, POINTS
    )


def test_the_rows_that_others_rely_on_are_there_with_their_bars() -> None:
    assert set(CLAIMS) >= NAMED
    assert all(CLAIMS[name].bar and CLAIMS[name].expected for name in NAMED)


def test_a_bar_is_reached_from_the_right_side() -> None:
    assert Bar(0.85).holds(0.85)
    assert not Bar(0.85).holds(0.84)
    assert Bar(2.0, at_most=True).holds(1.5)
    assert not Bar(2.0, at_most=True).holds(2.1)


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    finding = Finding.of("adapters16_over_base", [80.0, 90.0, 190.0], [100.0, 120.0, 200.0])
    written = finding.to_json()
    assert (written["ratio"], written["ratio_min"], written["ratio_max"]) == (0.8, 0.75, 0.95)
    assert (written["value"], written["peer_value"], written["rounds"]) == (90.0, 120.0, 3)
    assert (written["bar"], written["passed"]) == ("≥ 0.85", False)


def test_an_error_is_judged_itself() -> None:
    written = Finding.of("flood_share_error", [0.05, 0.07], [0.8, 0.8]).to_json()
    assert (written["ratio"], written["passed"]) == (0.06, True)


def test_without_a_bar_nothing_is_passed() -> None:
    assert Finding.of("base_over_transformers", [2.0], [1.0]).to_json()["passed"] is None


def test_a_peer_that_did_not_run_has_no_row() -> None:
    found = headline._findings({("Trellis", 0): [4.0], ("Trellis", 16): [3.0], ("PEFT mixed", 16): [1.0]})
    assert [finding.claim.name for finding in found] == ["adapters16_over_base", "adapters16_over_peft_mixed"]


def test_all_is_published(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "made/serving.json"
    publish(sheet(), file, "the command", draw_points(POINTS))
    written = json.loads(file.read_text())
    assert [row["name"] for row in written["rows"]] == [
        "adapters16_over_base",
        "flood_share_error",
        "base_over_transformers",
    ]
    assert written["points"][2]["seconds_to_first_token"] is None
    assert written["left_out"] == ["x was left out."]
    assert written["machine"]["cores"] == 2
    page = file.with_suffix(".md").read_text()
    assert "the command" in page
    assert CLAIMS["adapters16_over_base"].expected in page
    assert "| `flood_share_error` | 0.2 |" in page
    assert "| 16 | 450 (0.2) | 100 |" in page
    assert file.with_suffix(".svg").read_text().startswith("<?xml")
    printed = capsys.readouterr().out
    assert "adapters16_over_base" in printed
    assert "MISSED" in printed


def test_without_a_file_it_is_only_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(sheet(quick=True), None, "the command", "")
    assert "quick: too small to judge by" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_plot_is_the_same_each_time() -> None:
    assert draw_points(POINTS) == draw_points(POINTS)
    assert not draw_points([])


@pytest.mark.parametrize(("value", "text"), [(1234.5, "1234"), (99.96, "100"), (0.8512, "0.851"), (0.0, "0")])
def test_three_digits_are_shown(value: float, text: str) -> None:
    assert shown(value) == text


def test_shares_are_of_the_time_when_both_wait() -> None:
    asks = (Ask((1,) * 4, 2, tenant=FLOOD), Ask((1,) * 2, 2, tenant=LIGHT), Ask((1,) * 2, 2, tenant=LIGHT))
    timing = Timing(5.0, 6, sent=[0.0, 0.0, 2.0], first=[1.0, 1.0, 3.0])
    timing.pieces = [(1.0, 0, 1), (1.0, 1, 1), (2.0, 0, 1), (2.0, 1, 1), (3.0, 2, 1), (4.0, 2, 1)]
    # until 0.0, when the last one of the flood was sent, nothing came
    timing.sent[0] = -1.0
    given = shares(Workload(asks, 3), timing)
    flood, light = 4 + 2 * 2, 2 + 2 * 2
    assert given == {FLOOD: pytest.approx(flood / (flood + light)), LIGHT: pytest.approx(light / (flood + light))}
