"""The database says which servers may use it."""

import sqlalchemy as sa
from alembic import op

revision = "v0007"
down_revision = "v0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Servers of before this revision do not read it, so this is the least that it can say."""
    table = op.create_table(
        "least_revision",
        sa.Column("revision", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("revision", name="pk_least_revision"),
    )
    op.bulk_insert(table, [{"revision": revision}])


def downgrade() -> None:
    """Say nothing."""
    op.drop_table("least_revision")
