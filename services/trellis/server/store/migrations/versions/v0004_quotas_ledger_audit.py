"""Quotas, the ledger, fair shares, what the scheduler decided, shared adapters, leases, and the audit trail."""

import sqlalchemy as sa
from alembic import op

revision = "v0004"
down_revision = "v0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them."""
    op.create_table(
        "audit_events",
        sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("after", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_audit_events")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("audit_events", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_audit_events_principal_sequence"), ["principal", "sequence"], unique=False)
        batch_op.create_index(batch_op.f("ix_audit_events_tenant_sequence"), ["tenant", "sequence"], unique=False)
    _make_append_only()

    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "scheduler_board",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("board", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scheduler_board")),
    )
    op.create_table(
        "fair_shares",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("past_use", sa.Double(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant"], ["tenants.tenant_id"], name=op.f("fk_fair_shares_tenants"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant", name=op.f("pk_fair_shares")),
    )
    op.create_table(
        "holds",
        sa.Column("job_uid", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant_id"], name=op.f("fk_holds_tenants"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_uid", "meter", name=op.f("pk_holds")),
    )
    with op.batch_alter_table("holds", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_holds_tenant_meter"), ["tenant", "meter"], unique=False)

    op.create_table(
        "ledger_entries",
        sa.Column("sequence", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("job_uid", sa.Text(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("price_nanos", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant"], ["tenants.tenant_id"], name=op.f("fk_ledger_entries_tenants"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sequence", name=op.f("pk_ledger_entries")),
        sa.UniqueConstraint("tenant", "key", name=op.f("uq_ledger_entries_tenant_key")),
        sqlite_autoincrement=True,
    )
    with op.batch_alter_table("ledger_entries", schema=None) as batch_op:
        batch_op.create_index("ix_ledger_entries_job_uid_time_sequence", ["job_uid", "time", "sequence"])
        batch_op.create_index("ix_ledger_entries_tenant_time_sequence", ["tenant", "time", "sequence"])
        batch_op.create_index("ix_ledger_entries_time_sequence", ["time", "sequence"])

    op.create_table(
        "rate_buckets",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("level", sa.Double(), nullable=False),
        sa.Column("time", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant"], ["tenants.tenant_id"], name=op.f("fk_rate_buckets_tenants"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant", "kind", name=op.f("pk_rate_buckets")),
    )
    op.create_table(
        "usage_hours",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("price_nanos", sa.BigInteger(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("adapter", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant"], ["tenants.tenant_id"], name=op.f("fk_usage_hours_tenants"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint(
            "tenant", "hour", "meter", "price_nanos", "resource", "adapter", "base_model", name=op.f("pk_usage_hours")
        ),
    )
    with op.batch_alter_table("usage_hours", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_usage_hours_hour"), ["hour"], unique=False)

    op.create_table(
        "usage_days",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("day", sa.DateTime(timezone=True), nullable=False),
        sa.Column("meter", sa.Text(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant"], ["tenants.tenant_id"], name=op.f("fk_usage_days_tenants"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("tenant", "day", "meter", name=op.f("pk_usage_days")),
    )
    op.create_table(
        "adapter_shares",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["owner", "digest"],
            ["adapters.tenant", "adapters.digest"],
            name=op.f("fk_adapter_shares_adapters"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("owner", "digest", "tenant", name=op.f("pk_adapter_shares")),
    )
    with op.batch_alter_table("adapter_shares", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_adapter_shares_tenant_create_time_owner_digest"),
            ["tenant", "create_time", "owner", "digest"],
            unique=False,
        )

    op.create_table(
        "reservations",
        sa.Column("job_uid", sa.Text(), nullable=False),
        sa.Column("cpus", sa.Double(), nullable=False),
        sa.Column("gpus", sa.Double(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_uid"], ["tuning_jobs.uid"], name=op.f("fk_reservations_tuning_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_uid", name=op.f("pk_reservations")),
    )
    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.add_column(sa.Column("scopes", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("rotate_time", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("old_secret_hash", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("old_secret_expire_time", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("last_use_time", sa.DateTime(timezone=True), nullable=True))
        batch_op.create_unique_constraint(batch_op.f("uq_api_keys_old_secret_hash"), ["old_secret_hash"])

    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.add_column(sa.Column("accelerators", sa.Double(), server_default=sa.text("0"), nullable=False))

    with op.batch_alter_table("tenants", schema=None) as batch_op:
        batch_op.add_column(sa.Column("training_weight", sa.Double(), server_default=sa.text("1"), nullable=False))
        batch_op.add_column(sa.Column("cohort", sa.Text(), server_default=sa.text("''"), nullable=False))
        batch_op.add_column(sa.Column("quota", sa.Text(), nullable=True))
        batch_op.create_index(batch_op.f("ix_tenants_cohort"), ["cohort"], unique=False)

    with op.batch_alter_table("tuning_jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("priority", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
        batch_op.add_column(sa.Column("estimate", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("preemption_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False))


def _make_append_only() -> None:
    """The code only adds to the trail; this holds it against a mistake. Whoever owns the database can drop it."""
    refusal = "the audit trail is append-only"
    if op.get_bind().dialect.name == "sqlite":
        for deed in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_events_no_{deed.lower()} BEFORE {deed} ON audit_events "
                f"BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION audit_events_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{refusal}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_events "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_events_refuse()"
    )


def downgrade() -> None:
    """Drop them."""
    with op.batch_alter_table("tuning_jobs", schema=None) as batch_op:
        batch_op.drop_column("preemption_count")
        batch_op.drop_column("estimate")
        batch_op.drop_column("priority")

    with op.batch_alter_table("tenants", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_tenants_cohort"))
        batch_op.drop_column("quota")
        batch_op.drop_column("cohort")
        batch_op.drop_column("training_weight")

    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.drop_column("accelerators")

    with op.batch_alter_table("api_keys", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("uq_api_keys_old_secret_hash"), type_="unique")
        batch_op.drop_column("last_use_time")
        batch_op.drop_column("old_secret_expire_time")
        batch_op.drop_column("old_secret_hash")
        batch_op.drop_column("rotate_time")
        batch_op.drop_column("scopes")

    op.drop_table("reservations")
    with op.batch_alter_table("adapter_shares", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_adapter_shares_tenant_create_time_owner_digest"))

    op.drop_table("adapter_shares")
    with op.batch_alter_table("usage_hours", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_usage_hours_hour"))

    op.drop_table("usage_days")
    op.drop_table("usage_hours")
    op.drop_table("rate_buckets")
    with op.batch_alter_table("ledger_entries", schema=None) as batch_op:
        batch_op.drop_index("ix_ledger_entries_time_sequence")
        batch_op.drop_index("ix_ledger_entries_tenant_time_sequence")
        batch_op.drop_index("ix_ledger_entries_job_uid_time_sequence")

    op.drop_table("ledger_entries")
    with op.batch_alter_table("holds", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_holds_tenant_meter"))

    op.drop_table("holds")
    op.drop_table("fair_shares")
    op.drop_table("scheduler_board")
    op.drop_table("leases")
    with op.batch_alter_table("audit_events", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_audit_events_tenant_sequence"))
        batch_op.drop_index(batch_op.f("ix_audit_events_principal_sequence"))

    op.drop_table("audit_events")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_events_refuse()")
