"""The tenants that a scheduler's decision is about."""

from typing import Any

from sqlalchemy import Select, select

from trellis.server.domain.tuning_job import ACTIVE, JobState
from trellis.server.store import tables

_j = tables.tuning_jobs.c
_STATES = (JobState.QUEUED, *sorted(ACTIVE))


def tenants_in_play() -> Select[Any]:
    """The ids of those that have a job which waits or holds capacity, for a subquery."""
    return select(_j.tenant).where(_j.state.in_(_STATES)).distinct()
