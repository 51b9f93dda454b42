"""docs/datasets.md says what trellis.formats does."""

import io
import json
import re
from pathlib import Path

from trellis.formats import CODES, FileFormat
from trellis.reports import build_report

PAGE = (Path(__file__).parents[3] / "docs" / "datasets.md").read_text()


def test_every_code_is_there_with_its_meaning_and_what_to_do() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
    assert {code: meaning for code, meaning, _ in rows} == CODES
    assert all(hint.endswith(".") for _, _, hint in rows)


def test_every_line_that_is_shown_is_good() -> None:
    blocks = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    for block in blocks:
        line = json.dumps(json.loads(block)).encode() + b"\n"
        report = build_report(io.BytesIO(line), FileFormat.JSONL)
        assert report.errors == (), block
        assert not report.ignored_keys, block


def test_the_csv_that_is_shown_is_good() -> None:
    (block,) = re.findall(r"^```csv\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    report = build_report(io.BytesIO(block.encode()), FileFormat.CSV)
    assert report.errors == ()
    assert report.valid_lines == 2
