"""What a job's adapter takes of a trainer's room depends on the linears that it adapts."""

import sqlalchemy as sa
from alembic import op

revision = "v0009"
down_revision = "v0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Jobs that are there are counted as before: as if they adapted all."""
    op.add_column("tuning_jobs", sa.Column("adapted_share", sa.Double(), server_default=sa.text("1"), nullable=False))


def downgrade() -> None:
    """All are counted so again."""
    op.drop_column("tuning_jobs", "adapted_share")
