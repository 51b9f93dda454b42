"""The README's commands, which are a contract."""

import re
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
_HEADING = "## The CLI in ten lines"


def cli_lines() -> list[str]:
    """The commands of the README's walk, without their remarks."""
    section = README.read_text().partition(_HEADING)[2]
    block = re.search(r"```sh\n(.*?)```", section, re.DOTALL)
    assert block, f"{README} has no commands under {_HEADING!r}"
    return [re.sub(r"\s+# .*", "", line) for line in block[1].splitlines()]
