"""Trainers that jobs share, exports, and what jobs and checkpoints remember for them."""

import sqlalchemy as sa
from alembic import op

revision = "v0003"
down_revision = "v0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them."""
    op.create_table(
        "trainers",
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("base_source", sa.Text(), nullable=False),
        sa.Column("base_revision", sa.Text(), nullable=False),
        sa.Column("tokenizer_digest", sa.Text(), nullable=False),
        sa.Column("precision", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("submission_id", sa.Text(), nullable=False),
        sa.Column("cpus", sa.Double(), nullable=False),
        sa.Column("gpus", sa.Double(), nullable=False),
        sa.Column("workers", sa.BigInteger(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_expire_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("busy_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("room", sa.Text(), nullable=True),
        sa.Column("room_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("job_count", sa.BigInteger(), nullable=False),
        sa.Column("tokens_per_second", sa.Double(), nullable=False),
        sa.Column("drain_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("cleaned_up", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_trainers")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_trainers_token_hash")),
    )
    with op.batch_alter_table("trainers", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_trainers_base_model_end_time"), ["base_model", "end_time"], unique=False)
        batch_op.create_index(batch_op.f("ix_trainers_cleaned_up_end_time"), ["cleaned_up", "end_time"], unique=False)
        batch_op.create_index(batch_op.f("ix_trainers_state_create_time"), ["state", "create_time"], unique=False)

    op.create_table(
        "exports",
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("export_id", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("adapter_key", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("submission_id", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("files", sa.Text(), nullable=False),
        sa.Column("cleaned_up", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant_id"], name=op.f("fk_exports_tenants"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("uid", name=op.f("pk_exports")),
        sa.UniqueConstraint("tenant", "export_id", name=op.f("uq_exports_tenant_export_id")),
    )
    with op.batch_alter_table("exports", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_exports_cleaned_up_end_time"), ["cleaned_up", "end_time"], unique=False)
        batch_op.create_index(batch_op.f("ix_exports_base_model"), ["base_model"], unique=False)
        batch_op.create_index(batch_op.f("ix_exports_state_create_time"), ["state", "create_time"], unique=False)
        batch_op.create_index(
            batch_op.f("ix_exports_tenant_create_time_export_id"), ["tenant", "create_time", "export_id"], unique=False
        )

    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.add_column(sa.Column("trainer_uid", sa.Text(), server_default=sa.text("''"), nullable=False))
        batch_op.add_column(sa.Column("step", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
        batch_op.add_column(sa.Column("step_time", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("used_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
        batch_op.add_column(sa.Column("used_seconds", sa.Double(), server_default=sa.text("0"), nullable=False))
        batch_op.create_index(batch_op.f("ix_attempts_trainer_uid_end_time"), ["trainer_uid", "end_time"], unique=False)

    with op.batch_alter_table("checkpoints", schema=None) as batch_op:
        batch_op.add_column(sa.Column("valid_loss", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("pinned", sa.Boolean(), server_default=sa.false(), nullable=False))

    with op.batch_alter_table("tuning_jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("failure_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
        batch_op.add_column(sa.Column("memory_halvings", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
        batch_op.add_column(sa.Column("decline_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
        batch_op.add_column(sa.Column("used_tokens", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
        batch_op.add_column(sa.Column("used_seconds", sa.Double(), server_default=sa.text("0"), nullable=False))
        batch_op.add_column(sa.Column("export_id", sa.Text(), server_default=sa.text("''"), nullable=False))
        batch_op.add_column(sa.Column("stop_time", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Forget them."""
    with op.batch_alter_table("tuning_jobs", schema=None) as batch_op:
        batch_op.drop_column("stop_time")
        batch_op.drop_column("export_id")
        batch_op.drop_column("used_seconds")
        batch_op.drop_column("used_tokens")
        batch_op.drop_column("decline_count")
        batch_op.drop_column("memory_halvings")
        batch_op.drop_column("failure_count")

    with op.batch_alter_table("checkpoints", schema=None) as batch_op:
        batch_op.drop_column("pinned")
        batch_op.drop_column("valid_loss")

    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_attempts_trainer_uid_end_time"))
        batch_op.drop_column("used_seconds")
        batch_op.drop_column("used_tokens")
        batch_op.drop_column("step_time")
        batch_op.drop_column("step")
        batch_op.drop_column("trainer_uid")

    with op.batch_alter_table("exports", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_exports_tenant_create_time_export_id"))
        batch_op.drop_index(batch_op.f("ix_exports_cleaned_up_end_time"))
        batch_op.drop_index(batch_op.f("ix_exports_state_create_time"))
        batch_op.drop_index(batch_op.f("ix_exports_base_model"))

    op.drop_table("exports")
    with op.batch_alter_table("trainers", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_trainers_state_create_time"))
        batch_op.drop_index(batch_op.f("ix_trainers_cleaned_up_end_time"))

    op.drop_table("trainers")
