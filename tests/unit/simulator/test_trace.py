"""Recorded queues: written as they are read, and refused with the line that is wrong."""

import io
from pathlib import Path

import pytest

from trellis.server.simulator.synthetic import Mix, synthetic_trace
from trellis.server.simulator.trace import TraceError, TraceJob, TraceTenant, parse_trace, read_trace, write_trace

PLATFORM = '{"kind": "platform", "accelerators": 8}'
JOB = '{"kind": "job", "job": "j", "tenant": "acme", "submit": 0, "seconds": 60, "accelerators": 1}'


def test_what_was_written_is_read(tmp_path: Path) -> None:
    made = synthetic_trace(Mix(60, 7, 16))
    write_trace(made, tmp_path / "queue.jsonl")
    assert read_trace(tmp_path / "queue.jsonl") == made


def test_what_a_line_leaves_out_is_as_documented() -> None:
    lines = f'{PLATFORM}\n\n{{"kind": "tenant", "tenant": "globex", "weight": 2}}\n{JOB}\n'
    found = parse_trace(io.StringIO(lines))
    assert found.tenants == (TraceTenant("acme"), TraceTenant("globex", 2))
    assert found.jobs == (TraceJob("j", "acme", 0, 60, 1),)
    assert found.jobs[0].estimate is None
    share = found.tenants[1].share
    assert (share.weight, share.cohort, share.quota.accelerators) == (2, "", None)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([JOB], "one line of kind `platform`, and this has 0"),
        ([PLATFORM, PLATFORM, JOB], "this has 2"),
        ([PLATFORM], "at least one line of kind `job`"),
        ([PLATFORM, JOB, JOB], "Line 3: there is a job j already"),
        ([PLATFORM, "{"], "Line 2 is no line of a trace"),
        ([PLATFORM, "[]"], "its `kind` must be platform, tenant or job"),
        ([PLATFORM, '{"kind": "robot"}'], "its `kind` must be platform, tenant or job"),
        ([PLATFORM, JOB.replace('"submit": 0, ', "")], "it misses 'submit'"),
        ([PLATFORM, JOB.replace('"submit": 0', '"submit": "soon"')], '`submit` can\'t be "soon"'),
        ([PLATFORM, JOB.replace('"submit": 0', '"submit": true')], "`submit` can't be true"),
        ([PLATFORM, JOB.replace('"submit": 0', '"submit": -1')], "`submit` and `accelerators` not below"),
        ([PLATFORM, JOB.replace('"seconds": 60', '"seconds": 0')], "`seconds` must be above 0"),
        ([PLATFORM, JOB.replace("}", ', "base": "x"}')], "either `accelerators` or a `base`"),
        ([PLATFORM, JOB.replace("}", ', "colour": "red"}')], "no field `colour`; those there are: job, tenant"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(lines: list[str], said: str) -> None:
    with pytest.raises(TraceError) as caught:
        parse_trace(lines)
    assert said in str(caught.value)
