"""All that a run of a benchmark has to say."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.report.machine import Machine
from tests.bench.report.row import Row

_HEADINGS = ("", "Trellis", "unit", "peer", "peer's", "ratio")


@dataclass(frozen=True, slots=True)
class Sheet:
    """Rows of one run, with what they depend on; `settings` are the sizes and hyperparameters of both sides."""

    bench: str
    date: str
    quick: bool
    machine: Machine
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    rows: list[Row] = field(default_factory=list)

    def to_json(self) -> str:
        """The sheet as JSON; numbers that are none are refused."""
        whole = {name: getattr(self, name) for name in ("bench", "date", "quick")}
        whole |= {"machine": asdict(self.machine), "versions": dict(self.versions), "settings": dict(self.settings)}
        whole["rows"] = [row.to_json() for row in self.rows]
        return json.dumps(whole, indent=2, allow_nan=False) + "\n"

    def __str__(self) -> str:
        said = [f"{self.bench}, {self.date}{', quick: too small to judge by' if self.quick else ''}", str(self.machine)]
        said.append(", ".join(f"{name} {version}" for name, version in self.versions.items()))
        said.append(", ".join(f"{name} {value}" for name, value in self.settings.items()))
        return "\n".join([*said, "", *table(self.rows)])

    def publish(self, file: Path | None) -> None:
        """Print the table; write the JSON if there is a file for it."""
        print(self)
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self.to_json(), encoding="utf-8")


def table(rows: Sequence[Row]) -> list[str]:
    """The lines of the table: names on the left, numbers right under each other."""
    cells = [_HEADINGS, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    numbers = (1, 4, 5)
    return [
        "  ".join(
            cell.rjust(width) if at in numbers else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    ]


def output_options(parser: argparse.ArgumentParser) -> None:
    """The options that every benchmark has."""
    parser.add_argument("--quick", action="store_true", help="small sizes, under a minute: shows that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rows, machine and versions here")


def cache_option(parser: argparse.ArgumentParser, holds: str) -> None:
    """Where a benchmark keeps what takes long to make."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trellis-bench"
    parser.add_argument("--cache", type=Path, default=folder, metavar="DIR", help=f"for {holds}")
