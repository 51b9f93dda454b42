"""docs/scheduling.md says what is so."""

import re
from pathlib import Path

from trellis.server.domain.tuning_job import PRECEDENCE
from trellis.server.scheduler.predict import LONGEST, SHORTEST
from trellis.server.simulator.trace import parse_trace

PAGE = (Path(__file__).parents[3] / "docs/scheduling.md").read_text(encoding="utf-8")


def test_every_code_is_in_the_table_in_its_precedence() -> None:
    assert re.findall(r"^\| `([A-Z_]+)` \|", PAGE, re.MULTILINE) == [code.value for code in PRECEDENCE]


def test_the_trace_of_the_page_is_one() -> None:
    (lines,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    found = parse_trace(lines.splitlines())
    assert [job.job for job in found.jobs] == ["j1", "j2"]
    assert found.tenants[0].weight == 2


def test_the_interval_is_the_one_that_is_reckoned() -> None:
    assert (SHORTEST, LONGEST) == (1 / 3, 5.0)
    assert "from a third of the predicted wait to five times it" in PAGE
