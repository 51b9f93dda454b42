"""Jobs that have not ended, as other nouns ask for them."""

from typing import Any

from sqlalchemy import Row

from trellis.server.domain.tuning_job import ENDED, JobState

LIVE = tuple(state for state in JobState if state not in ENDED)
"""The states of a job that has not ended."""


def job_name(row: Row[Any]) -> str:
    """The resource name of a row that has `tenant` and `job_id`."""
    return f"tenants/{row.tenant}/tuningJobs/{row.job_id}"
