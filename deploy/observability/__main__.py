"""Writes the chart's dashboards and rules: `python -m deploy.observability`; `--check` only says what is not up to date."""

import json
import sys
from pathlib import Path

import yaml
from deploy.observability import alerts, boards, slos

CHART = Path(__file__).parents[2] / "helm" / "trellis"
_HEAD = "# Written by `python -m deploy.observability`; do not edit.\n# yamllint disable rule:line-length\n---\n"


def files() -> dict[Path, str]:
    """All files, and what is to be in them."""
    found = {
        CHART / "dashboards" / f"{board.name}.json": json.dumps(board.to_json(), indent=1, ensure_ascii=False) + "\n"
        for board in boards.BOARDS
    }
    for name, groups in (("alerts", alerts.groups()), ("slos", slos.recordings())):
        found[CHART / "rules" / f"{name}.yaml"] = _HEAD + yaml.safe_dump({"groups": groups}, sort_keys=False, width=110)
    return found


def main() -> int:
    """The exit status."""
    stale = [path for path, text in files().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(CHART)} is not up to date; run `python -m deploy.observability`.")
        return bool(stale)
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files()[path], encoding="utf-8")
        print(f"wrote {path.relative_to(CHART)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
