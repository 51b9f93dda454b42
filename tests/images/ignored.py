"""What `docker build` sees of a folder, by its .dockerignore."""

import re
from collections.abc import Iterator
from pathlib import Path


class Context:
    """A build context: the last rule of .dockerignore that fits a path, or a folder above it, decides."""

    def __init__(self, root: Path) -> None:
        self.root = root
        lines = (root / ".dockerignore").read_text().splitlines()
        written = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        self._rules = [(_pattern(line.removeprefix("!")), line.startswith("!")) for line in written]

    def holds(self, path: str) -> bool:
        """Whether the file, named from the root, is part of the context."""
        held = True
        for pattern, is_kept in self._rules:
            if pattern.match(path):
                held = is_kept
        return held

    def files(self, source: str) -> Iterator[Path]:
        """The files of a folder, or the file, from the root; raises FileNotFoundError where the context has none."""
        start = self.root / source
        names = [start] if start.is_file() else sorted(path for path in start.rglob("*") if path.is_file())
        found = [name.relative_to(self.root) for name in names if self.holds(str(name.relative_to(self.root)))]
        if not found:
            raise FileNotFoundError(f"COPY {source}: the build context has no such file.")
        yield from found


def _pattern(rule: str) -> re.Pattern[str]:
    """The paths that a rule names, and all below them."""
    pieces = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[^\]]*\])", rule.strip("/"))
    text = "".join(pieces.get(part, part if part.startswith("[") else re.escape(part)) for part in parts)
    return re.compile(f"{text}(?:/.*)?$")
