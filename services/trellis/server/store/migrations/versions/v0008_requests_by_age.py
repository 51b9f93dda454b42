"""The requests that are old enough to be forgotten are found without reading all."""

from trellis.server.store.migrations.indexes import drop_index, make_index

revision = "v0008"
down_revision = "v0007"
branch_labels = None
depends_on = None
in_transaction = False

_BY_AGE = "ix_requests_create_time"


def upgrade() -> None:
    """There is a row for each create of a week."""
    make_index(_BY_AGE, "requests", ["create_time"])


def downgrade() -> None:
    """As before."""
    drop_index(_BY_AGE, "requests")
