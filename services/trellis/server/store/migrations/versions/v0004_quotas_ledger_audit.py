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

    op.create_index("ix_checkpoints_job_uid_valid_loss_step", "checkpoints", ["job_uid", "valid_loss", "step"])
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
        batch_op.create_index("ix_ledger_entries_resource_time_sequence", ["resource", "time", "sequence"])
        batch_op.create_index("ix_ledger_entries_tenant_time_sequence", ["tenant", "time", "sequence"])
        batch_op.create_index("ix_ledger_entries_time_sequence", ["time", "sequence"])
    _keep_entries()

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
    _add_shares()
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

    with op.batch_alter_table("reports", schema=None) as batch_op:
        batch_op.add_column(sa.Column("token_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False))

    with op.batch_alter_table("tuning_jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("priority", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
        batch_op.add_column(sa.Column("estimate", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("preemption_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False))

    _move_usage()
    op.drop_index("ix_usage_records_tenant_kind_quantity", "usage_records")
    op.drop_table("usage_records")


def _move_usage() -> None:
    """Make entries of the ledger of the old records. What was counted in seconds was of one accelerator, as far as anybody
    knew then, and so are attempts that go on.
    """
    op.execute("UPDATE attempts SET accelerators = 1 WHERE end_time IS NULL")
    op.execute(
        """
        INSERT INTO ledger_entries
            (tenant, key, kind, meter, quantity, time, job_uid, resource, adapter, base_model, price_nanos)
        SELECT tenant, key, 'SETTLE',
            CASE kind WHEN 'training_seconds' THEN 'ACCELERATOR_MILLISECONDS' WHEN 'training_tokens' THEN 'TRAINED_TOKENS'
                WHEN 'inference_prompt_tokens' THEN 'PROMPT_TOKENS' ELSE 'COMPLETION_TOKENS' END,
            CAST(round(CASE kind WHEN 'training_seconds' THEN quantity * 1000 ELSE quantity END) AS BIGINT),
            time, '',
            CASE WHEN resource LIKE '%/tuningJobs/%' THEN resource ELSE '' END,
            CASE WHEN resource LIKE '%/adapters/%' THEN resource ELSE '' END,
            CASE WHEN resource LIKE 'baseModels/%' THEN resource ELSE '' END,
            0
        FROM usage_records
        WHERE kind IN ('training_seconds', 'training_tokens', 'inference_prompt_tokens', 'inference_completion_tokens')
            AND round(CASE kind WHEN 'training_seconds' THEN quantity * 1000 ELSE quantity END) >= 1
        ORDER BY time, tenant, key
        """
    )
    hour, day = "date_trunc('hour', time, 'UTC')", "date_trunc('day', time, 'UTC')"
    if op.get_bind().dialect.name == "sqlite":
        hour, day = r"substr(time, 1, 13) || '\:00\:00.000000'", r"substr(time, 1, 10) || ' 00\:00\:00.000000'"
    op.execute(
        f"""
        INSERT INTO usage_hours (tenant, hour, meter, price_nanos, resource, adapter, base_model, quantity)
        SELECT tenant, {hour}, meter, 0, resource, adapter, base_model, sum(quantity) FROM ledger_entries
        GROUP BY tenant, {hour}, meter, resource, adapter, base_model
        """  # noqa: S608  the expressions are ours
    )
    op.execute(
        f"""
        INSERT INTO usage_days (tenant, day, meter, quantity)
        SELECT tenant, {day}, meter, sum(quantity) FROM ledger_entries GROUP BY tenant, {day}, meter
        """  # noqa: S608  the expressions are ours
    )


def _move_usage_back() -> None:
    """Make the old records of what was settled; what is kept, and what was held, they did not know."""
    op.create_table(
        "usage_records",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("quantity", sa.Double(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant_id"], name="fk_usage_records_tenants", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tenant", "key", name="pk_usage_records"),
    )
    op.create_index("ix_usage_records_tenant_kind_quantity", "usage_records", ["tenant", "kind", "quantity"])
    op.execute(
        """
        INSERT INTO usage_records (tenant, key, kind, quantity, resource, time)
        SELECT tenant, key,
            CASE meter WHEN 'ACCELERATOR_MILLISECONDS' THEN 'training_seconds' WHEN 'TRAINED_TOKENS' THEN 'training_tokens'
                WHEN 'PROMPT_TOKENS' THEN 'inference_prompt_tokens' ELSE 'inference_completion_tokens' END,
            CASE meter WHEN 'ACCELERATOR_MILLISECONDS' THEN quantity / 1000.0 ELSE quantity END,
            CASE WHEN resource != '' THEN resource WHEN adapter != '' THEN adapter ELSE base_model END,
            time
        FROM ledger_entries
        WHERE kind = 'SETTLE'
            AND meter IN ('ACCELERATOR_MILLISECONDS', 'TRAINED_TOKENS', 'PROMPT_TOKENS', 'COMPLETION_TOKENS')
        """
    )


def _add_shares() -> None:
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
            batch_op.f("ix_adapter_shares_owner_digest_create_time_tenant"),
            ["owner", "digest", "create_time", "tenant"],
            unique=False,
        )
        batch_op.create_index(
            batch_op.f("ix_adapter_shares_tenant_create_time_owner_digest"),
            ["tenant", "create_time", "owner", "digest"],
            unique=False,
        )


def _keep_entries() -> None:
    """Entries of the ledger are never changed; they are deleted only with their tenant."""
    refusal = "the ledger is append-only"
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE TRIGGER ledger_entries_no_update BEFORE UPDATE ON ledger_entries "
            f"BEGIN SELECT RAISE(ABORT, '{refusal}'); END"
        )
        return
    op.execute(
        "CREATE FUNCTION ledger_entries_refuse() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{refusal}'; END $$"
    )
    op.execute(
        "CREATE TRIGGER ledger_entries_no_update BEFORE UPDATE OR TRUNCATE ON ledger_entries "
        "FOR EACH STATEMENT EXECUTE FUNCTION ledger_entries_refuse()"
    )


def _drop_ledger() -> None:
    with op.batch_alter_table("ledger_entries", schema=None) as batch_op:
        batch_op.drop_index("ix_ledger_entries_time_sequence")
        batch_op.drop_index("ix_ledger_entries_tenant_time_sequence")
        batch_op.drop_index("ix_ledger_entries_resource_time_sequence")

    op.drop_table("ledger_entries")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION ledger_entries_refuse()")


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
    # To older code a narrowed key would open all that its role may do.
    op.execute(
        "UPDATE api_keys SET revoke_time = CURRENT_TIMESTAMP "
        "WHERE scopes IS NOT NULL AND scopes != 'null' AND revoke_time IS NULL"
    )
    _move_usage_back()
    with op.batch_alter_table("tuning_jobs", schema=None) as batch_op:
        batch_op.drop_column("preemption_count")
        batch_op.drop_column("estimate")
        batch_op.drop_column("priority")

    with op.batch_alter_table("reports", schema=None) as batch_op:
        batch_op.drop_column("token_count")

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
        batch_op.drop_index(batch_op.f("ix_adapter_shares_owner_digest_create_time_tenant"))

    op.drop_table("adapter_shares")
    with op.batch_alter_table("usage_hours", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_usage_hours_hour"))

    op.drop_table("usage_days")
    op.drop_table("usage_hours")
    op.drop_table("rate_buckets")
    _drop_ledger()
    with op.batch_alter_table("holds", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_holds_tenant_meter"))

    op.drop_table("holds")
    op.drop_table("fair_shares")
    op.drop_table("scheduler_board")
    op.drop_table("leases")
    op.drop_index("ix_checkpoints_job_uid_valid_loss_step", "checkpoints")
    with op.batch_alter_table("audit_events", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_audit_events_tenant_sequence"))
        batch_op.drop_index(batch_op.f("ix_audit_events_principal_sequence"))

    op.drop_table("audit_events")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_events_refuse()")
