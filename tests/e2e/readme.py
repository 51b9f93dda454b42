"""The README's commands, which are a contract."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
_WALK = "## The CLI in ten lines"
_SHARING = "## Many teams, fairly"
_EXPORT = "## Take a model away"


def cli_lines() -> list[str]:
    """The commands of the README's walk, without their remarks."""
    return _commands(_WALK)


def sharing_lines() -> list[str]:
    """The commands about many teams, which follow the walk."""
    return _commands(_SHARING)


def export_lines() -> list[str]:
    """The commands that take a model away, which follow the walk."""
    return _commands(_EXPORT)


def _commands(heading: str) -> list[str]:
    section = README.read_text().partition(heading)[2]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block, f"{README} has no commands under {heading!r}"
    return [re.sub(r"\s+# .*", "", line) for line in block[1].splitlines()]
