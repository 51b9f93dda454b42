"""Reports: often while few jobs run, and no more than the servers can bear."""

from datetime import timedelta

import pytest

from trellis.server.app.report_pace import OFTEN, ReportPace


@pytest.mark.parametrize(("running", "seconds"), [(0, OFTEN), (70, OFTEN), (500, 5.0), (1000, 10.0), (50_000, 10.0)])
def test_all_jobs_together_make_so_many_reports_unless_a_lease_asks_for_more(running: int, seconds: float) -> None:
    pace = ReportPace(100.0, timedelta(seconds=30))
    pace.see(running)
    assert pace.seconds == seconds
    pace.see(0)
    assert pace.seconds == OFTEN
