"""All that runs found, part by part: as tables, as JSON and as a page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from rich.console import Console
from rich.table import Table

from tests.bench.report import Machine
from tests.bench.training_rig.claims import CLAIMS
from tests.bench.training_rig.finding import Finding, Point

_COLUMNS: Final = ("", "result", "min", "max", "bar", "", "Trellis", "peer's", "unit", "peer")
_KEYS: Final = ("result", "result_min", "result_max")
_WIDTH: Final = 240
_PASSED: Final = {True: "reached", False: "MISSED", None: ""}
_NOT_YET: Final = "Not yet measured."
_OUTCOME: Final = "## What came out"


@dataclass(frozen=True, slots=True)
class PartSheet:
    """Findings and points of one part of one run, with what they depend on."""

    part: str
    date: str
    quick: bool
    machine: Machine
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    command: str
    findings: Sequence[Finding] = ()
    points: Sequence[Point] = ()
    left_out: Sequence[str] = ()
    """What was not measured, each a sentence with its reason."""

    def to_json(self) -> dict[str, Any]:
        """As it is written."""
        plain = {name: getattr(self, name) for name in ("date", "quick", "command")}
        return plain | {
            "machine": asdict(self.machine),
            "versions": dict(self.versions),
            "settings": dict(self.settings),
            "left_out": list(self.left_out),
            "rows": [finding.to_json() for finding in self.findings],
            "points": [point.to_json() for point in self.points],
        }


@dataclass
class Book:
    """The parts that were measured, by name, as JSON has them; a part that is measured again replaces its old self."""

    parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path) -> Self:
        """What an earlier run wrote, or an empty one."""
        return cls(json.loads(file.read_text(encoding="utf-8"))["parts"]) if file.exists() else cls()

    def add(self, sheet: PartSheet) -> None:
        """Keep what was found."""
        self.parts[sheet.part] = sheet.to_json()

    def to_json(self) -> str:
        """All of it; numbers that are none are refused."""
        whole = {"bench": "training", "parts": self.parts}
        return json.dumps(whole, indent=2, allow_nan=False, ensure_ascii=False) + "\n"

    def print(self) -> None:
        """The tables, on standard output."""
        console = Console(width=_WIDTH, soft_wrap=True)
        for name, part in self.parts.items():
            console.print("\n".join(["", *_heading(name, part)]), highlight=False)
            if part["rows"]:
                console.print(_table(_COLUMNS, [_cells(row) for row in part["rows"]]))
            for title, columns, rows in _grids(part["points"]):
                console.print(_table(columns, rows, title))
            for note in _notes(part):
                console.print(note, highlight=False)

    def page(self, outcome: str) -> str:
        """The page of docs/benchmarks; what came out is for whoever reads the numbers to write."""
        said = [_EXPECTED, *(f"- `{claim.name}`{_bar(claim.name)}: {claim.expected}." for claim in CLAIMS.values())]
        said += ["", _ON_A_GPU, "", "## Measured"]
        for name, part in self.parts.items():
            said += [f"### {name}", "```sh", part["command"], "```", *_heading(name, part), ""]
            if part["rows"]:
                said += [_line(_COLUMNS), "|---|---:|---:|---:|---:|---|---:|---:|---|---|"]
                said += [_line((f"`{cells[0]}`", *cells[1:])) for cells in map(_cells, part["rows"])]
                said += ["", *(f"- {note}" for note in _notes(part)), ""]
            for title, columns, rows in _grids(part["points"]):
                said += [title, "", _line(columns), "|---|---|---|" + "---:|" * (len(columns) - 3)]
                said += [*map(_line, rows), ""]
        if self.parts:
            said += [
                "![Training beside its peers](training.svg)",
                "",
                "All of it is in [training.json](training.json).",
            ]
        else:
            said += [_NOT_YET]
        return "\n".join([*said, "", _OUTCOME, outcome.strip() or _NOT_YET, ""])


_EXPECTED: Final = """# Training: many tenants' adapters at once, against its peers

Every result is the median over rounds in which all systems had the same tenants, lines, hyperparameters and order of lines,
one system after another; the least and the greatest round stand beside it. That all did equal work is shown by the losses of
their last steps. Trainer and TRL get all cores and their libraries' own threads, and no evaluation; datasets are uploaded
before the clock starts, and adapters count as ready when they are checked and registered.

The shared step is measured in one process: every tenant's step of plain PEFT, one after another, each on modules of its own that
share the base's weights, so that switching adapters costs the peer nothing.

## Expected
Written before the first full run, from the measurements and the arithmetic that the design goes by.
"""


GPU_EXPECTED: Final = {"few": (8.0, 3.4), "mixed": (1.5, 1.8), "full": (1.0, 1.0)}
"""How many times as fast as sequential PEFT and as one padded batch; `tests.bench.training_rig.gpu.expected`, rounded."""
_ON_A_GPU: Final = """On a GPU (`tests.bench.training_gpu`, an 8B-shaped model in bf16, 8 tenants of rank 16) a step takes the longest of its
arithmetic (four FLOPs a weight and token, 790 TFLOP/s on an H200), of reading the weights twice (4.8 TB/s), and of some 30 ms of
launches, so that up to 740 tokens cost what one does. By that the shared step should be, with lines of one tenant like these, so many
times as fast. It has not been run yet.

| a tenant's step | as PEFT, one tenant after another | as one padded batch in mLoRA's style |
|---|---:|---:|
| one line of 32 to 128 tokens | {few[0]} | {few[1]} |
| two lines of 32 to 512 | {mixed[0]} | {mixed[1]} (≥ 1.5) |
| two lines of 512 | {full[0]} (≥ 0.95) | {full[1]} |""".format(**GPU_EXPECTED)


def _bar(name: str) -> str:
    bar = CLAIMS[name].bar
    return f" ({bar})" if bar else ""


def _heading(name: str, part: Mapping[str, Any]) -> list[str]:
    machine = Machine(**part["machine"])
    said = [f"training, {name}, {part['date']}{', quick: too small to judge by' if part['quick'] else ''}. {machine}."]
    said.append(", ".join(f"{key} {version}" for key, version in part["versions"].items()) + ".")
    said.append(", ".join(f"{key}: {value}" for key, value in part["settings"].items()) + ".")
    return [*said, *part["left_out"]]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    numbers = [shown(row[key]) for key in _KEYS]
    values = [shown(row[name]) for name in ("value", "peer_value")]
    return (
        row["name"],
        *numbers,
        row["bar"] or "",
        _PASSED[row["passed"]],
        *values,
        row["unit"],
        row["peer"] or "",
    )


def _notes(part: Mapping[str, Any]) -> list[str]:
    return [f"{row['name']}: {row['note']}" for row in part["rows"] if row["note"]]


def _grids(points: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str], list[list[str]]]]:
    """One table a unit: a line for each number of tenants, length and mix, a column for each system."""
    found = []
    for unit in dict.fromkeys(point["unit"] for point in points):
        mine = [point for point in points if point["unit"] == unit]
        systems = list(dict.fromkeys(point["system"] for point in mine))
        values = {(_place(point), point["system"]): shown(point["value"]) for point in mine}
        rows = [
            [*map(str, place), *(values.get((place, system), "") for system in systems)]
            for place in dict.fromkeys(map(_place, mine))
        ]
        found.append((f"{unit}:", ["tenants", "length", "adapters", *systems], rows))
    return found


def _place(point: Mapping[str, Any]) -> tuple[int, str, str]:
    return point["tenants"], point["length"], point["mix"]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> Table:
    table = Table(box=None, padding=(0, 1), title=title, title_justify="left")
    for name in columns:
        table.add_column(name, justify="left" if name in {"", "unit", "peer"} else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def shown(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write(book: Book, file: Path | None, plot: str) -> None:
    """Write the JSON if there is a file for it, and beside it the page and the plot.

    What somebody wrote into the page on what came out stays there.
    """
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(book.to_json(), encoding="utf-8")
    page = file.with_suffix(".md")
    page.write_text(book.page(outcome_of(page)), encoding="utf-8")
    if plot:
        file.with_suffix(".svg").write_text(plot, encoding="utf-8")


def outcome_of(page: Path) -> str:
    """The last section of a page that there may be."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    return text.partition(f"{_OUTCOME}\n")[2]
