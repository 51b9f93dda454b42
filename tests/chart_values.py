"""The chart's values as a table: each key with what its comment says and what it is by itself."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

_KEY: Final = re.compile(r"^( *)([\w-]+):")
_SAID: Final = "# -- "


@dataclass(frozen=True, slots=True)
class Value:
    """One key that may be set."""

    path: str
    default: Any
    said: str

    @property
    def row(self) -> str:
        """Its line of the table."""
        default = json.dumps(self.default).replace("|", "\\|")
        return f"| `{self.path}` | `{default}` | {self.said.replace('|', chr(92) + '|')} |"


def values_of(path: Path) -> Iterator[Value]:
    """The keys below a comment that begins with `# --`, in their order."""
    text = path.read_text(encoding="utf-8")
    defaults = yaml.safe_load(text)
    above: list[tuple[int, str]] = []
    said: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            if stripped.startswith(_SAID):
                said = [stripped.removeprefix(_SAID)]
            elif said:
                said.append(stripped.removeprefix("# "))
            continue
        if found := _KEY.match(line):
            indent = len(found[1])
            above = [*(one for one in above if one[0] < indent), (indent, found[2])]
            if said:
                names = [name for _, name in above]
                yield Value(".".join(names), _at(defaults, names), " ".join(said))
        said = []


def leaves(value: object, path: str = "") -> Iterator[str]:
    """The paths of all that is no mapping, or an empty one."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from leaves(item, f"{path}.{name}" if path else name)
    else:
        yield path


def table(path: Path) -> str:
    """All of them."""
    return "\n".join(["| value | default | what it is |", "|---|---|---|", *(one.row for one in values_of(path))])


def _at(values: Any, names: list[str]) -> Any:
    for name in names:
        values = values[name]
    return values
