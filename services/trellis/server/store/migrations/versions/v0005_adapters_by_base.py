"""The adapters that a base's engine shall have at hand are found without reading all that are deployed."""

from alembic import op

revision = "v0005"
down_revision = "v0004"
branch_labels = None
depends_on = None

_BY_BASE = "ix_adapters_base_model_deployment_create_time_digest"


def upgrade() -> None:
    """One index for what two were for."""
    op.create_index(_BY_BASE, "adapters", ["base_model", "deployment", "create_time", "digest"])
    op.drop_index("ix_adapters_base_model", "adapters")
    op.drop_index("ix_adapters_deployment_create_time", "adapters")


def downgrade() -> None:
    """The two again."""
    op.create_index("ix_adapters_deployment_create_time", "adapters", ["deployment", "create_time"])
    op.create_index("ix_adapters_base_model", "adapters", ["base_model"])
    op.drop_index(_BY_BASE, "adapters")
