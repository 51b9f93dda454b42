"""All that a run found: as a table, as JSON and as a page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.bench.report import Machine
from tests.bench.serving_rig.finding import Finding, Point

_COLUMNS: Final = ("", "ratio", "min", "max", "bar", "", "Trellis", "peer's", "unit", "peer")
_WIDTH: Final = 240
_PASSED: Final = {True: "reached", False: "MISSED", None: ""}


@dataclass(frozen=True, slots=True)
class ServingSheet:
    """Findings and points of one run, with what they depend on."""

    date: str
    quick: bool
    machine: Machine
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    left_out: Sequence[str]
    """What was not measured, each a sentence with its reason."""
    findings: Sequence[Finding]
    points: Sequence[Point]

    def to_json(self) -> str:
        """The sheet as JSON; numbers that are none are refused."""
        whole = {
            "bench": "serving",
            "date": self.date,
            "quick": self.quick,
            "machine": asdict(self.machine),
            "versions": dict(self.versions),
            "settings": dict(self.settings),
            "left_out": list(self.left_out),
            "rows": [finding.to_json() for finding in self.findings],
            "points": [point.to_json() for point in self.points],
        }
        return json.dumps(whole, indent=2, allow_nan=False, ensure_ascii=False) + "\n"

    def print(self) -> None:
        """The tables, on standard output."""
        console = Console(width=_WIDTH, soft_wrap=True)
        console.print("\n".join(self._heading()), highlight=False)
        console.print(_findings_table(self.findings))
        for at_once in sorted({point.at_once for point in self.points}):
            console.print(_points_table([point for point in self.points if point.at_once == at_once], at_once))

    def page(self, command: str) -> str:
        """The page of docs/benchmarks; what came out is for whoever reads the numbers to write."""
        parts = [_EXPECTED, *_expected(self.findings), "", "## Measured", "```sh", command, "```"]
        parts += [*self._heading(), "", *_findings_page(self.findings), ""]
        if self.points:
            parts += ["![Tokens a second and time to first token](serving.svg)", "", *_points_page(self.points), ""]
        return "\n".join([*parts, "All of it is in [serving.json](serving.json).", ""])

    def _heading(self) -> list[str]:
        said = [f"serving, {self.date}{', quick: too small to judge by' if self.quick else ''}. {self.machine}."]
        said.append(", ".join(f"{name} {version}" for name, version in self.versions.items()) + ".")
        said.append(", ".join(f"{name}: {value}" for name, value in self.settings.items()) + ".")
        return [*said, *self.left_out]


_EXPECTED: Final = """# Serving: many adapters beside one base, against its peers

Every ratio is the median over rounds in which all systems answered the same number of requests one after another, each
in a process of its own that sleeps while others run; the least and the greatest round stand beside it.

## Expected
Written before the first full run; the numbers of peers that it goes by were measured alone.
"""


def _cells(finding: Finding) -> tuple[str, ...]:
    row = finding.to_json()
    numbers = [shown(row[name]) for name in ("ratio", "ratio_min", "ratio_max")]
    values = [shown(row[name]) for name in ("value", "peer_value")]
    return (row["name"], *numbers, row["bar"] or "", _PASSED[row["passed"]], *values, row["unit"], row["peer"])


def _findings_table(findings: Sequence[Finding]) -> Table:
    table = Table(box=None, padding=(0, 1))
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in {"", "unit", "peer"} else "right", no_wrap=True)
    for finding in findings:
        table.add_row(*_cells(finding))
    return table


def _points_table(points: Sequence[Point], at_once: int) -> Table:
    table = Table(box=None, padding=(0, 1), title=f"{at_once} at once: tok/s (s to first token)", title_justify="left")
    for name in _grid_columns(points):
        table.add_column(name, justify="right")
    for row in _grid(points):
        table.add_row(*row)
    return table


def _expected(findings: Sequence[Finding]) -> list[str]:
    return [f"- `{finding.claim.name}`: {finding.claim.expected}." for finding in findings]


def _findings_page(findings: Sequence[Finding]) -> list[str]:
    lines = [_line(_COLUMNS), "|---|---:|---:|---:|---:|---|---:|---:|---|---|"]
    return lines + [_line((f"`{cells[0]}`", *cells[1:])) for cells in map(_cells, findings)]


def _points_page(points: Sequence[Point]) -> list[str]:
    lines = ["Requests of mixed lengths, tok/s; in parentheses the median time to first token in seconds.", ""]
    for at_once in sorted({point.at_once for point in points}):
        mine = [point for point in points if point.at_once == at_once]
        columns = _grid_columns(mine)
        lines += [f"{at_once} at once", "", _line(columns), "|---:" * len(columns) + "|"]
        lines += [*map(_line, _grid(mine)), ""]
    return lines[:-1]


def _grid_columns(points: Sequence[Point]) -> list[str]:
    return ["adapters", *dict.fromkeys(point.system for point in points)]


def _grid(points: Sequence[Point]) -> list[list[str]]:
    systems = _grid_columns(points)[1:]
    found = {(point.adapters, point.system): point for point in points}
    return [
        [str(adapters), *(_rate(found.get((adapters, system))) for system in systems)]
        for adapters in sorted({point.adapters for point in points})
    ]


def _rate(point: Point | None) -> str:
    if point is None:
        return ""
    return f"{point.rate:.0f}" + ("" if point.wait is None else f" ({shown(point.wait)})")


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def shown(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def publish(sheet: ServingSheet, file: Path | None, command: str, plot: str) -> None:
    """Print the tables; beside the JSON, if there is a file for it, write the page and the plot."""
    sheet.print()
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(sheet.to_json(), encoding="utf-8")
    file.with_suffix(".md").write_text(sheet.page(command), encoding="utf-8")
    if plot:
        file.with_suffix(".svg").write_text(plot, encoding="utf-8")
