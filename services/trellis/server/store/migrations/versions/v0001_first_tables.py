"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "v0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "base_models",
        sa.Column("base_model_id", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("architecture", sa.Text(), nullable=False),
        sa.Column("context_length", sa.BigInteger(), nullable=False),
        sa.Column("parameter_count", sa.BigInteger(), nullable=False),
        sa.Column("vocabulary_size", sa.BigInteger(), nullable=False),
        sa.Column("tokenizer_digest", sa.Text(), nullable=False),
        sa.Column("has_chat_template", sa.Boolean(), nullable=False),
        sa.Column("is_default", sa.Boolean(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("etag_revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("base_model_id", name="pk_base_models"),
    )
    op.create_index("ix_base_models_create_time_base_model_id", "base_models", ["create_time", "base_model_id"])
    op.create_index(
        "uq_base_models_default",
        "base_models",
        ["is_default"],
        unique=True,
        postgresql_where=sa.text("is_default"),
        sqlite_where=sa.text("is_default = 1"),
    )
    op.create_table(
        "requests",
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("resource", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("scope", "request_id", name="pk_requests"),
    )
    op.create_index("ix_requests_tenant", "requests", ["tenant"])
    op.create_table(
        "tenants",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_tenants"),
    )
    op.create_index("ix_tenants_create_time_tenant_id", "tenants", ["create_time", "tenant_id"])
    op.create_table(
        "adapters",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("adapter_id", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("tuning_job", sa.Text(), nullable=False),
        sa.Column("rank", sa.BigInteger(), nullable=False),
        sa.Column("target_modules", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("manifest_json", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deployment", sa.Text(), nullable=False),
        sa.Column("deployment_message", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant_id"], name="fk_adapters_tenants", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tenant", "digest", name="pk_adapters"),
        sa.UniqueConstraint("tenant", "adapter_id", name="uq_adapters_tenant_adapter_id"),
    )
    op.create_index("ix_adapters_base_model", "adapters", ["base_model"])
    op.create_index("ix_adapters_deployment_create_time", "adapters", ["deployment", "create_time"])
    op.create_index(
        "ix_adapters_tenant_create_time_adapter_id",
        "adapters",
        ["tenant", "create_time", "adapter_id"],
        unique=False,
    )
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=True),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("secret_hash", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoke_time", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant_id"], name="fk_api_keys_tenants", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key_id", name="pk_api_keys"),
        sa.UniqueConstraint("secret_hash", name="uq_api_keys_secret_hash"),
    )
    op.create_index("ix_api_keys_tenant_create_time_key_id", "api_keys", ["tenant", "create_time", "key_id"])
    op.create_table(
        "datasets",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("latest_sha256", sa.Text(), nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant_id"], name="fk_datasets_tenants", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tenant", "dataset_id", name="pk_datasets"),
    )
    op.create_index(
        "ix_datasets_tenant_create_time_dataset_id",
        "datasets",
        ["tenant", "create_time", "dataset_id"],
        unique=False,
    )
    op.create_table(
        "tuning_jobs",
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text(), nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("training_dataset", sa.Text(), nullable=False),
        sa.Column("validation_dataset", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("alias_id", sa.Text(), nullable=False),
        sa.Column("deploy", sa.Boolean(), nullable=False),
        sa.Column("queue_reason", sa.Text(), nullable=True),
        sa.Column("progress", sa.Text(), nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("adapter_digest", sa.Text(), nullable=False),
        sa.Column("base_evaluation", sa.Text(), nullable=True),
        sa.Column("tuned_evaluation", sa.Text(), nullable=True),
        sa.Column("attempt_count", sa.BigInteger(), nullable=False),
        sa.Column("retry_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("cancel_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("event_count", sa.BigInteger(), nullable=False),
        sa.Column("log_size", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("claim_token", sa.Text(), nullable=True),
        sa.Column("claim_expire_time", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant_id"], name="fk_tuning_jobs_tenants", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("uid", name="pk_tuning_jobs"),
        sa.UniqueConstraint("tenant", "job_id", name="uq_tuning_jobs_tenant_job_id"),
    )
    op.create_index("ix_tuning_jobs_create_time_uid", "tuning_jobs", ["create_time", "uid"])
    op.create_index("ix_tuning_jobs_state_create_time_uid", "tuning_jobs", ["state", "create_time", "uid"])
    op.create_index("ix_tuning_jobs_tenant_create_time_uid", "tuning_jobs", ["tenant", "create_time", "uid"])
    op.create_index(
        "ix_tuning_jobs_tenant_state_create_time_uid",
        "tuning_jobs",
        ["tenant", "state", "create_time", "uid"],
        unique=False,
    )
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
    op.create_table(
        "aliases",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("alias_id", sa.Text(), nullable=False),
        sa.Column("adapter_digest", sa.Text(), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "adapter_digest"], ["adapters.tenant", "adapters.digest"], name="fk_aliases_adapters"
        ),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.tenant_id"], name="fk_aliases_tenants", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("tenant", "alias_id", name="pk_aliases"),
    )
    op.create_index("ix_aliases_tenant_adapter_digest", "aliases", ["tenant", "adapter_digest"])
    op.create_table(
        "attempts",
        sa.Column("job_uid", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("token_hash", sa.Text(), nullable=False),
        sa.Column("submission_id", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_expire_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("next_report", sa.BigInteger(), nullable=False),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("end_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("cleaned_up", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["job_uid"], ["tuning_jobs.uid"], name="fk_attempts_tuning_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_uid", "number", name="pk_attempts"),
        sa.UniqueConstraint("token_hash", name="uq_attempts_token_hash"),
    )
    op.create_index("ix_attempts_cleaned_up_end_time", "attempts", ["cleaned_up", "end_time"])
    op.create_index("ix_attempts_end_time_create_time", "attempts", ["end_time", "create_time"])
    op.create_index("ix_attempts_end_time_lease_expire_time", "attempts", ["end_time", "lease_expire_time"])
    op.create_table(
        "checkpoints",
        sa.Column("job_uid", sa.Text(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_uid"], ["tuning_jobs.uid"], name="fk_checkpoints_tuning_jobs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_uid", "step", name="pk_checkpoints"),
    )
    op.create_table(
        "dataset_versions",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("file_format", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("line_count", sa.BigInteger(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "dataset_id"],
            ["datasets.tenant", "datasets.dataset_id"],
            name="fk_dataset_versions_datasets",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant", "dataset_id", "sha256", name="pk_dataset_versions"),
    )
    op.create_index(
        "ix_dataset_versions_tenant_dataset_id_create_time_sha256",
        "dataset_versions",
        ["tenant", "dataset_id", "create_time", "sha256"],
        unique=False,
    )
    op.create_table(
        "job_events",
        sa.Column("job_uid", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_uid"], ["tuning_jobs.uid"], name="fk_job_events_tuning_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_uid", "sequence", name="pk_job_events"),
    )
    op.create_table(
        "job_logs",
        sa.Column("job_uid", sa.Text(), nullable=False),
        sa.Column("end_offset", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["job_uid"], ["tuning_jobs.uid"], name="fk_job_logs_tuning_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_uid", "end_offset", name="pk_job_logs"),
    )
    op.create_table(
        "job_metrics",
        sa.Column("job_uid", sa.Text(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_uid"], ["tuning_jobs.uid"], name="fk_job_metrics_tuning_jobs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_uid", "step", "name", name="pk_job_metrics"),
    )
    op.create_table(
        "uploads",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("update_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("committed_bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "dataset_id"],
            ["datasets.tenant", "datasets.dataset_id"],
            name="fk_uploads_datasets",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant", "dataset_id", "sha256", name="pk_uploads"),
    )
    op.create_index("ix_uploads_update_time", "uploads", ["update_time"])
    op.create_table(
        "reports",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("base_model", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("valid", sa.Boolean(), nullable=False),
        sa.Column("trainable_token_count", sa.BigInteger(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.Column("claim_token", sa.Text(), nullable=True),
        sa.Column("claim_expire_time", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["tenant", "dataset_id", "sha256"],
            ["dataset_versions.tenant", "dataset_versions.dataset_id", "dataset_versions.sha256"],
            name="fk_reports_dataset_versions",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant", "dataset_id", "sha256", "base_model", name="pk_reports"),
    )
    op.create_index("ix_reports_state_create_time", "reports", ["state", "create_time"])
    op.create_table(
        "upload_parts",
        sa.Column("tenant", sa.Text(), nullable=False),
        sa.Column("dataset_id", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "dataset_id", "sha256"],
            ["uploads.tenant", "uploads.dataset_id", "uploads.sha256"],
            name="fk_upload_parts_uploads",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant", "dataset_id", "sha256", "offset", name="pk_upload_parts"),
    )


def downgrade() -> None:
    """Drop them, and their indexes with them."""
    for table in (
        "upload_parts",
        "reports",
        "uploads",
        "job_metrics",
        "job_logs",
        "job_events",
        "dataset_versions",
        "checkpoints",
        "attempts",
        "aliases",
        "usage_records",
        "tuning_jobs",
        "datasets",
        "api_keys",
        "adapters",
        "tenants",
        "requests",
        "base_models",
    ):
        op.drop_table(table)
