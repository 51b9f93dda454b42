"""Jobs and attempts know their places in traces."""

import sqlalchemy as sa
from alembic import op

revision = "v0006"
down_revision = "v0005"
branch_labels = None
depends_on = None

_TABLES = ("tuning_jobs", "attempts")


def upgrade() -> None:
    """Of those that are there, none is traced."""
    for table in _TABLES:
        op.add_column(table, sa.Column("traceparent", sa.Text(), server_default=sa.text("''"), nullable=False))


def downgrade() -> None:
    """Forget them."""
    for table in _TABLES:
        op.drop_column(table, "traceparent")
