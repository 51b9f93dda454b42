"""docs/quotas.md names every limit, and shows only options that there are."""

import re
from dataclasses import fields
from pathlib import Path

import click
import pytest

from trellis.cli.jobs import jobs
from trellis.cli.tenants import tenants
from trellis.client.types import Quota
from trellis.errors import Reason

PAGE = (Path(__file__).parents[3] / "docs" / "quotas.md").read_text()


def test_every_limit_has_its_row() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert rows == [field.name for field in fields(Quota)]


def test_every_limit_can_be_set_on_the_command_line() -> None:
    options = {parameter.name for parameter in tenants.commands["update"].params}
    assert {field.name for field in fields(Quota)} <= options


def test_reasons_are_the_apis() -> None:
    named = set(re.findall(r"[`\[](?!TRELLIS_)([A-Z]+_[A-Z_]+)[`\]]", PAGE))
    assert named <= {*Reason, "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"}
    assert {"QUOTA_EXCEEDED", "RATE_LIMITED", "BUDGET_EXHAUSTED", "NEVER_FITS"} <= named


@pytest.mark.parametrize(("group", "noun"), [(tenants, "tenants"), (jobs, "jobs")])
def test_the_examples_have_only_options_that_there_are(group: click.Group, noun: str) -> None:
    text = PAGE.replace("\\\n", " ")
    lines = re.findall(rf"^\$ trellis {noun} (\w+)(.*)$", text, re.MULTILINE)
    assert lines
    for name, rest in lines:
        known = {option for parameter in group.commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= known
