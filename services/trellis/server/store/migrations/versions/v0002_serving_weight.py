"""Tenants have a share of the engines' work."""

import sqlalchemy as sa
from alembic import op

revision = "v0002"
down_revision = "v0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Give every tenant the same one."""
    op.add_column("tenants", sa.Column("serving_weight", sa.Double(), server_default=sa.text("1"), nullable=False))


def downgrade() -> None:
    """Forget them."""
    op.drop_column("tenants", "serving_weight")
