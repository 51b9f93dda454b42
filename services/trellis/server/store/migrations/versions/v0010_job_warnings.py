"""Jobs keep what their owners should know of what they made."""

import sqlalchemy as sa
from alembic import op

revision = "v0010"
down_revision = "v0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Of jobs that have ended nothing is said."""
    op.add_column("tuning_jobs", sa.Column("warnings", sa.Text()))


def downgrade() -> None:
    """The events have it, too."""
    op.drop_column("tuning_jobs", "warnings")
