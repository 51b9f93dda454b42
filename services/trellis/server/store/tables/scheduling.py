"""What the scheduler remembers."""

from sqlalchemy import BigInteger, Column, Double, ForeignKey, Table

from trellis.server.store.columns import Json, UtcTime, Words
from trellis.server.store.tables.accounts import tenants
from trellis.server.store.tables.jobs import tuning_jobs
from trellis.server.store.tables.metadata import metadata

fair_shares = Table(
    "fair_shares",
    metadata,
    Column("tenant", Words, ForeignKey(tenants.c.tenant_id, ondelete="CASCADE"), primary_key=True),
    Column("past_use", Double, nullable=False),
    Column("time", UtcTime, nullable=False),  # as of when
)

reservations = Table(
    "reservations",
    metadata,
    Column("job_uid", Words, ForeignKey(tuning_jobs.c.uid, ondelete="CASCADE"), primary_key=True),
    Column("cpus", Double, nullable=False),
    Column("gpus", Double, nullable=False),
    Column("create_time", UtcTime, nullable=False),
)

# What the scheduler last decided, for whoever asks why a job waits: one row.
scheduler_board = Table(
    "scheduler_board",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("time", UtcTime, nullable=False),
    Column("board", Json, nullable=False),
)
