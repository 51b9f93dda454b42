"""Dashboards are up to date, draw series that there are, and are what Grafana reads."""

import json
from typing import Any

import pytest
from deploy.observability import boards, slos
from deploy.observability.__main__ import files
from deploy.observability.board import Board
from tests.promtool import check_expressions
from tests.registered_metrics import TARGET, asked, registered

GRAFANA_UNITS = {"none", "s", "reqps", "percentunit", "bytes"}
SLO_LABELS = frozenset({"slo", "window"}) | TARGET


def known() -> dict[str, frozenset[str]]:
    return {**registered(), slos.BURN: SLO_LABELS, "up": TARGET}


def test_the_files_are_what_the_code_makes() -> None:
    for path, text in files().items():
        assert path.read_text() == text, f"{path.name} is not up to date: run `python -m deploy.observability`"
    folders = {path.parent for path in files()}
    assert {path for folder in folders for path in folder.iterdir()} == set(files())


@pytest.mark.parametrize(("where", "expr"), boards.expressions())
def test_each_query_asks_for_what_there_is(where: str, expr: str) -> None:
    series = known()
    found = asked(expr)
    assert found.names or "up{" in expr, where
    assert found.names <= series.keys(), f"{where}: {sorted(found.names - series.keys())}"
    for name, labels in found.matched:
        assert labels <= series[name], f"{where}: {name} has no {sorted(labels - series[name])}"
        assert "namespace" in labels, f"{where}: {name} of which installation?"
    everywhere = frozenset[str]().union(*(series[name] for name in found.names))
    assert found.grouped <= everywhere, f"{where}: nothing has {sorted(found.grouped - everywhere)}"


@pytest.mark.parametrize(("where", "expr"), boards.expressions())
def test_each_legend_is_made_of_labels_that_are_left(where: str, expr: str) -> None:
    grouped = asked(expr).grouped
    legends = [
        target["legendFormat"]
        for board in boards.BOARDS
        for panel in board.to_json()["panels"]
        for target in panel.get("targets", ())
        if target["expr"] == expr
    ]
    for legend in legends:
        for label in (part.split("}}")[0] for part in legend.split("{{")[1:]):
            assert label in grouped | {"slo"}, f"{where}: {label} is not left over"


def test_prometheus_reads_every_query() -> None:
    check_expressions([expr.replace("$namespace", "trellis") for _, expr in boards.expressions()])


@pytest.mark.parametrize("board", boards.BOARDS, ids=lambda board: board.name)
def test_grafana_can_draw_it(board: Board) -> None:
    page = board.to_json()
    assert page["schemaVersion"] >= 38
    assert page["uid"] == f"trellis-{board.name}"
    assert [one["name"] for one in page["templating"]["list"]] == ["datasource", "namespace"]
    panels = page["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    drawn = [panel for panel in panels if panel["type"] != "row"]
    assert drawn
    for panel in drawn:
        assert panel["title"]
        assert panel["description"].endswith((".", ")", "?")), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in GRAFANA_UNITS
        assert panel["datasource"]["uid"] == "${datasource}"
        assert [target["refId"] for target in panel["targets"]] == sorted(
            {target["refId"] for target in panel["targets"]}
        )
    assert _overlaps(panels) == []
    assert len(json.dumps(page)) < 900_000, "a ConfigMap holds no more than 1 MiB"


def _overlaps(panels: list[dict[str, Any]]) -> list[tuple[str, str]]:
    taken: dict[tuple[int, int], str] = {}
    found = []
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                if (x, y) in taken:
                    found.append((taken[x, y], panel["title"]))
                taken[x, y] = panel["title"]
    return found


def test_every_engine_metric_is_drawn_somewhere() -> None:
    drawn = {name for _, expr in boards.expressions() for name in asked(expr).names}
    bare = {name.removesuffix("_bucket").removesuffix("_total") for name in drawn}
    engines = {name for name in registered() if name.startswith("ray_trellis_engine")}
    wanted = {n.removesuffix("_bucket").removesuffix("_total") for n in engines if not n.endswith(("_sum", "_count"))}
    assert wanted <= bare, sorted(wanted - bare)
