"""docs/tuning.md names what trellis.auto chooses."""

import re
from pathlib import Path

from trellis.auto import AUTO_FIELDS

PAGE = (Path(__file__).parents[3] / "docs" / "tuning.md").read_text()


def test_every_field_that_a_rule_chooses_has_its_rule() -> None:
    rules = PAGE[PAGE.index("## Rules") : PAGE.index("Where they are from")]
    named = {
        name for row in re.findall(r"^\| (`.+?) \|", rules, re.MULTILINE) for name in re.findall(r"`([\w.]+)`", row)
    }
    assert named == set(AUTO_FIELDS)
