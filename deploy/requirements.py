#!/usr/bin/env python3
"""`requirements.py EXTRA[,EXTRA…]`: print what Trellis needs, apart from Trellis itself, with the extras that are named."""

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path


def requirements(pyproject: Path, extras: Sequence[str]) -> list[str]:
    """The requirements, sorted, each once. Raises KeyError for an extra that there is not."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    named = (line for extra in extras for line in project["optional-dependencies"][extra])
    return sorted({*project["dependencies"], *named})


if __name__ == "__main__":
    try:
        print("\n".join(requirements(Path("pyproject.toml"), ",".join(sys.argv[1:]).split(","))))
    except KeyError as error:
        sys.exit(f"pyproject.toml has no extra {error}.")
