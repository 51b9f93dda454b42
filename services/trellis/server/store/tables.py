"""The tables. What each column means is said by the domain's field of the same name."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    UniqueConstraint,
    false,
    text,
)

from trellis.server.domain.adapter import Deployment
from trellis.server.domain.caller import Role
from trellis.server.domain.dataset import ReportState, VersionState
from trellis.server.domain.export import ExportFormat, ExportState
from trellis.server.domain.ledger import EntryKind, Meter
from trellis.server.domain.trainer import TrainerState
from trellis.server.domain.tuning_job import EventLevel, JobState
from trellis.server.store.columns import Json, Named, UtcTime, Words

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

tenants = Table(
    "tenants",
    metadata,
    Column("tenant_id", Words, primary_key=True),
    Column("display_name", Words, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("serving_weight", Double, nullable=False, server_default=text("1")),
    Column("training_weight", Double, nullable=False, server_default=text("1")),
    Column("cohort", Words, nullable=False, server_default=text("''")),
    Column("quota", Json),
    Index(None, "create_time", "tenant_id"),
    Index(None, "cohort"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Words, primary_key=True),
    Column("tenant", Words, ForeignKey(tenants.c.tenant_id, ondelete="CASCADE")),
    Column("role", Named(Role), nullable=False),
    Column("display_name", Words, nullable=False),
    Column("prefix", Words, nullable=False),
    Column("secret_hash", Words, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("expire_time", UtcTime),
    Column("revoke_time", UtcTime),
    Column("scopes", Json),
    Column("rotate_time", UtcTime),
    Column("old_secret_hash", Words),
    Column("old_secret_expire_time", UtcTime),
    Column("last_use_time", UtcTime),
    UniqueConstraint("secret_hash"),
    UniqueConstraint("old_secret_hash"),
    Index(None, "tenant", "create_time", "key_id"),
)

base_models = Table(
    "base_models",
    metadata,
    Column("base_model_id", Words, primary_key=True),
    Column("display_name", Words, nullable=False),
    Column("source", Words, nullable=False),
    Column("revision", Words, nullable=False),
    Column("architecture", Words, nullable=False),
    Column("context_length", BigInteger, nullable=False),
    Column("parameter_count", BigInteger, nullable=False),
    Column("vocabulary_size", BigInteger, nullable=False),
    Column("tokenizer_digest", Words, nullable=False),
    Column("has_chat_template", Boolean, nullable=False),
    Column("is_default", Boolean, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("etag_revision", BigInteger, nullable=False),
    Index(None, "create_time", "base_model_id"),
    Index(
        "uq_base_models_default",
        "is_default",
        unique=True,
        postgresql_where=text("is_default"),
        sqlite_where=text("is_default = 1"),
    ),
)

datasets = Table(
    "datasets",
    metadata,
    Column("tenant", Words, ForeignKey(tenants.c.tenant_id, ondelete="CASCADE"), primary_key=True),
    Column("dataset_id", Words, primary_key=True),
    Column("display_name", Words, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("update_time", UtcTime, nullable=False),
    Column("latest_sha256", Words),
    Column("revision", BigInteger, nullable=False),
    Index(None, "tenant", "create_time", "dataset_id"),
)

dataset_versions = Table(
    "dataset_versions",
    metadata,
    Column("tenant", Words, primary_key=True),
    Column("dataset_id", Words, primary_key=True),
    Column("sha256", Words, primary_key=True),
    Column("state", Named(VersionState), nullable=False),
    Column("filename", Words, nullable=False),
    Column("file_format", Words, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("key", Words, nullable=False),
    Column("base_model", Words, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("kind", Words, nullable=False),
    Column("line_count", BigInteger, nullable=False),
    Column("summary", Words, nullable=False),
    ForeignKeyConstraint(["tenant", "dataset_id"], [datasets.c.tenant, datasets.c.dataset_id], ondelete="CASCADE"),
    Index(None, "tenant", "dataset_id", "create_time", "sha256"),
)

uploads = Table(
    "uploads",
    metadata,
    Column("tenant", Words, primary_key=True),
    Column("dataset_id", Words, primary_key=True),
    Column("sha256", Words, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("update_time", UtcTime, nullable=False),
    Column("committed_bytes", BigInteger, nullable=False),  # where the next part must begin
    ForeignKeyConstraint(["tenant", "dataset_id"], [datasets.c.tenant, datasets.c.dataset_id], ondelete="CASCADE"),
    Index(None, "update_time"),
)

upload_parts = Table(
    "upload_parts",
    metadata,
    Column("tenant", Words, primary_key=True),
    Column("dataset_id", Words, primary_key=True),
    Column("sha256", Words, primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("size", BigInteger, nullable=False),
    Column("key", Words, nullable=False),
    ForeignKeyConstraint(
        ["tenant", "dataset_id", "sha256"],
        [uploads.c.tenant, uploads.c.dataset_id, uploads.c.sha256],
        ondelete="CASCADE",
    ),
)

reports = Table(
    "reports",
    metadata,
    Column("tenant", Words, primary_key=True),
    Column("dataset_id", Words, primary_key=True),
    Column("sha256", Words, primary_key=True),
    Column("base_model", Words, primary_key=True),
    Column("state", Named(ReportState), nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("key", Words, nullable=False),
    Column("valid", Boolean, nullable=False),
    Column("trainable_token_count", BigInteger, nullable=False),
    Column("token_count", BigInteger, nullable=False, server_default=text("0")),
    Column("summary", Words, nullable=False),
    Column("claim_token", Words),
    Column("claim_expire_time", UtcTime),
    ForeignKeyConstraint(
        ["tenant", "dataset_id", "sha256"],
        [dataset_versions.c.tenant, dataset_versions.c.dataset_id, dataset_versions.c.sha256],
        ondelete="CASCADE",
    ),
    Index(None, "state", "create_time"),
)

tuning_jobs = Table(
    "tuning_jobs",
    metadata,
    Column("uid", Words, primary_key=True),
    Column("tenant", Words, ForeignKey(tenants.c.tenant_id, ondelete="CASCADE"), nullable=False),
    Column("job_id", Words, nullable=False),
    Column("display_name", Words, nullable=False),
    Column("spec", Words, nullable=False),
    Column("base_model", Words, nullable=False),  # the spec's, for a look-up
    Column("training_dataset", Words, nullable=False),  # the spec's
    Column("validation_dataset", Words, nullable=False),  # the spec's
    Column("create_time", UtcTime, nullable=False),
    Column("update_time", UtcTime, nullable=False),
    Column("state", Named(JobState), nullable=False),
    Column("alias_id", Words, nullable=False),
    Column("deploy", Boolean, nullable=False),
    Column("queue_reason", Json),
    Column("progress", Json, nullable=False),
    Column("error", Json),
    Column("adapter_digest", Words, nullable=False),
    Column("base_evaluation", Json),
    Column("tuned_evaluation", Json),
    Column("attempt_count", BigInteger, nullable=False),
    Column("failure_count", BigInteger, nullable=False, server_default=text("0")),
    Column("memory_halvings", BigInteger, nullable=False, server_default=text("0")),
    Column("decline_count", BigInteger, nullable=False, server_default=text("0")),
    Column("used_tokens", BigInteger, nullable=False, server_default=text("0")),
    Column("used_seconds", Double, nullable=False, server_default=text("0")),
    Column("export_id", Words, nullable=False, server_default=text("''")),
    Column("priority", BigInteger, nullable=False, server_default=text("0")),
    Column("estimate", Json),
    Column("preemption_count", BigInteger, nullable=False, server_default=text("0")),
    Column("stop_time", UtcTime),
    Column("retry_time", UtcTime),
    Column("start_time", UtcTime),
    Column("cancel_time", UtcTime),
    Column("end_time", UtcTime),
    Column("event_count", BigInteger, nullable=False),
    Column("log_size", BigInteger, nullable=False),  # in characters
    Column("revision", BigInteger, nullable=False),
    Column("claim_token", Words),
    Column("claim_expire_time", UtcTime),
    UniqueConstraint("tenant", "job_id"),
    Index(None, "tenant", "create_time", "uid"),
    Index(None, "tenant", "state", "create_time", "uid"),
    Index(None, "create_time", "uid"),
    Index(None, "state", "create_time", "uid"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_uid", Words, ForeignKey(tuning_jobs.c.uid, ondelete="CASCADE"), primary_key=True),
    Column("number", BigInteger, primary_key=True),
    Column("tenant", Words, nullable=False),
    Column("token_hash", Words, nullable=False),
    Column("submission_id", Words, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("lease_expire_time", UtcTime, nullable=False),
    Column("next_report", BigInteger, nullable=False),
    Column("start_time", UtcTime),
    Column("end_time", UtcTime),
    Column("outcome", Words, nullable=False),
    Column("cleaned_up", Boolean, nullable=False),
    Column("trainer_uid", Words, nullable=False, server_default=text("''")),
    Column("step", BigInteger, nullable=False, server_default=text("0")),
    Column("step_time", UtcTime),
    Column("used_tokens", BigInteger, nullable=False, server_default=text("0")),
    Column("used_seconds", Double, nullable=False, server_default=text("0")),
    Column("accelerators", Double, nullable=False, server_default=text("0")),
    UniqueConstraint("token_hash"),
    Index(None, "trainer_uid", "end_time"),
    Index(None, "end_time", "create_time"),
    Index(None, "end_time", "lease_expire_time"),
    Index(None, "cleaned_up", "end_time"),
)

trainers = Table(
    "trainers",
    metadata,
    Column("uid", Words, primary_key=True),
    Column("base_model", Words, nullable=False),
    Column("base_source", Words, nullable=False),
    Column("base_revision", Words, nullable=False),
    Column("tokenizer_digest", Words, nullable=False),
    Column("precision", Words, nullable=False),
    Column("state", Named(TrainerState), nullable=False),
    Column("token_hash", Words, nullable=False),
    Column("submission_id", Words, nullable=False),
    Column("cpus", Double, nullable=False),
    Column("gpus", Double, nullable=False),
    Column("workers", BigInteger, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("lease_expire_time", UtcTime, nullable=False),
    Column("start_time", UtcTime),
    Column("hostname", Words, nullable=False),
    Column("busy_time", UtcTime),
    Column("room", Json),
    Column("room_time", UtcTime),
    Column("job_count", BigInteger, nullable=False),
    Column("tokens_per_second", Double, nullable=False),
    Column("drain_time", UtcTime),
    Column("end_time", UtcTime),
    Column("outcome", Words, nullable=False),
    Column("cleaned_up", Boolean, nullable=False),
    UniqueConstraint("token_hash"),
    Index(None, "state", "create_time"),
    Index(None, "base_model", "end_time"),
    Index(None, "cleaned_up", "end_time"),
)

exports = Table(
    "exports",
    metadata,
    Column("uid", Words, primary_key=True),
    Column("tenant", Words, ForeignKey(tenants.c.tenant_id, ondelete="CASCADE"), nullable=False),
    Column("export_id", Words, nullable=False),
    Column("display_name", Words, nullable=False),
    Column("source", Words, nullable=False),
    Column("adapter_key", Words, nullable=False),
    Column("base_model", Words, nullable=False),
    Column("format", Named(ExportFormat), nullable=False),
    Column("state", Named(ExportState), nullable=False),
    Column("key", Words, nullable=False),
    Column("submission_id", Words, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("start_time", UtcTime),
    Column("end_time", UtcTime),
    Column("error", Json),
    Column("files", Json, nullable=False),
    Column("cleaned_up", Boolean, nullable=False),
    UniqueConstraint("tenant", "export_id"),
    Index(None, "tenant", "create_time", "export_id"),
    Index(None, "state", "create_time"),
    Index(None, "cleaned_up", "end_time"),
    Index(None, "base_model"),
)

job_events = Table(
    "job_events",
    metadata,
    Column("job_uid", Words, ForeignKey(tuning_jobs.c.uid, ondelete="CASCADE"), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("time", UtcTime, nullable=False),
    Column("level", Named(EventLevel), nullable=False),
    Column("message", Words, nullable=False),
    Column("detail", Json, nullable=False),
)

job_metrics = Table(
    "job_metrics",
    metadata,
    Column("job_uid", Words, ForeignKey(tuning_jobs.c.uid, ondelete="CASCADE"), primary_key=True),
    Column("step", BigInteger, primary_key=True),
    Column("name", Words, primary_key=True),
    Column("value", Double),  # NULL is NaN, as SQLite has it
    Column("time", UtcTime, nullable=False),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("job_uid", Words, ForeignKey(tuning_jobs.c.uid, ondelete="CASCADE"), primary_key=True),
    Column("step", BigInteger, primary_key=True),
    Column("attempt", BigInteger, nullable=False),
    Column("key", Words, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("valid_loss", Double),
    Column("pinned", Boolean, nullable=False, server_default=false()),
    Index(None, "job_uid", "valid_loss", "step"),
)

job_logs = Table(
    "job_logs",
    metadata,
    Column("job_uid", Words, ForeignKey(tuning_jobs.c.uid, ondelete="CASCADE"), primary_key=True),
    Column("end_offset", BigInteger, primary_key=True),  # in characters from the log's beginning
    Column("attempt", BigInteger, nullable=False),
    Column("text", Words, nullable=False),
)

adapters = Table(
    "adapters",
    metadata,
    Column("tenant", Words, ForeignKey(tenants.c.tenant_id, ondelete="CASCADE"), primary_key=True),
    Column("digest", Words, primary_key=True),
    Column("adapter_id", Words, nullable=False),
    Column("display_name", Words, nullable=False),
    Column("base_model", Words, nullable=False),
    Column("tuning_job", Words, nullable=False),
    Column("rank", BigInteger, nullable=False),
    Column("target_modules", Json, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("key", Words, nullable=False),
    Column("manifest_json", Words, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("deployment", Named(Deployment), nullable=False),
    Column("deployment_message", Words, nullable=False),
    Column("revision", BigInteger, nullable=False),
    UniqueConstraint("tenant", "adapter_id"),
    Index(None, "tenant", "create_time", "adapter_id"),
    Index(None, "deployment", "create_time"),
    Index(None, "base_model"),
)

aliases = Table(
    "aliases",
    metadata,
    Column("tenant", Words, ForeignKey(tenants.c.tenant_id, ondelete="CASCADE"), primary_key=True),
    Column("alias_id", Words, primary_key=True),
    Column("adapter_digest", Words, nullable=False),
    Column("update_time", UtcTime, nullable=False),
    Column("revision", BigInteger, nullable=False),
    # An alias never points into the void: an adapter that one points at can't be deleted.
    ForeignKeyConstraint(["tenant", "adapter_digest"], [adapters.c.tenant, adapters.c.digest]),
    Index(None, "tenant", "adapter_digest"),
)

adapter_shares = Table(
    "adapter_shares",
    metadata,
    Column("owner", Words, primary_key=True),
    Column("digest", Words, primary_key=True),
    # No foreign key: whether there is such a tenant is not for the owner to learn.
    Column("tenant", Words, primary_key=True),
    Column("create_time", UtcTime, nullable=False),
    ForeignKeyConstraint(["owner", "digest"], [adapters.c.tenant, adapters.c.digest], ondelete="CASCADE"),
    Index(None, "owner", "digest", "create_time", "tenant"),
    Index(None, "tenant", "create_time", "owner", "digest"),
)

ledger_entries = Table(
    "ledger_entries",
    metadata,
    # SQLite counts only an INTEGER key up by itself.
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("tenant", Words, ForeignKey(tenants.c.tenant_id, ondelete="CASCADE"), nullable=False),
    Column("key", Words, nullable=False),
    Column("kind", Named(EntryKind), nullable=False),
    Column("meter", Named(Meter), nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("time", UtcTime, nullable=False),
    Column("job_uid", Words, nullable=False),
    Column("resource", Words, nullable=False),
    Column("adapter", Words, nullable=False),
    Column("base_model", Words, nullable=False),
    Column("price_nanos", BigInteger, nullable=False),
    UniqueConstraint("tenant", "key"),
    Index(None, "tenant", "time", "sequence"),
    Index(None, "time", "sequence"),
    Index(None, "resource", "time", "sequence"),
    sqlite_autoincrement=True,
)

# What is settled, summed by the hour: derived from the ledger in the same transaction, so that budgets and reports need
# not read all of it.
usage_hours = Table(
    "usage_hours",
    metadata,
    Column("tenant", Words, ForeignKey(tenants.c.tenant_id, ondelete="CASCADE"), primary_key=True),
    Column("hour", UtcTime, primary_key=True),
    Column("meter", Named(Meter), primary_key=True),
    Column("price_nanos", BigInteger, primary_key=True),
    Column("resource", Words, primary_key=True),
    Column("adapter", Words, primary_key=True),
    Column("base_model", Words, primary_key=True),
    Column("quantity", BigInteger, nullable=False),
    Index(None, "hour"),
)

# The same by the day, without the details: what budgets are read from with every call, and all of them in every decision.
usage_days = Table(
    "usage_days",
    metadata,
    Column("tenant", Words, ForeignKey(tenants.c.tenant_id, ondelete="CASCADE"), primary_key=True),
    Column("day", UtcTime, primary_key=True),
    Column("meter", Named(Meter), primary_key=True),
    Column("quantity", BigInteger, nullable=False),
)

# What is held for each job: derived from the ledger in the same transaction.
holds = Table(
    "holds",
    metadata,
    Column("job_uid", Words, primary_key=True),
    Column("meter", Named(Meter), primary_key=True),
    Column("tenant", Words, ForeignKey(tenants.c.tenant_id, ondelete="CASCADE"), nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Index(None, "tenant", "meter"),
)

rate_buckets = Table(
    "rate_buckets",
    metadata,
    Column("tenant", Words, ForeignKey(tenants.c.tenant_id, ondelete="CASCADE"), primary_key=True),
    Column("kind", Words, primary_key=True),  # requests or tokens
    Column("level", Double, nullable=False),  # what may be taken at once; negative where more was used than foreseen
    Column("time", Double, nullable=False),  # when the level was so, in seconds since 1970
)

fair_shares = Table(
    "fair_shares",
    metadata,
    Column("tenant", Words, ForeignKey(tenants.c.tenant_id, ondelete="CASCADE"), primary_key=True),
    Column("past_use", Double, nullable=False),
    Column("time", UtcTime, nullable=False),  # as of when
)

reservations = Table(
    "reservations",
    metadata,
    Column("job_uid", Words, ForeignKey(tuning_jobs.c.uid, ondelete="CASCADE"), primary_key=True),
    Column("cpus", Double, nullable=False),
    Column("gpus", Double, nullable=False),
    Column("create_time", UtcTime, nullable=False),
)

# What the scheduler last decided, for whoever asks why a job waits: one row.
scheduler_board = Table(
    "scheduler_board",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("time", UtcTime, nullable=False),
    Column("board", Json, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Words, primary_key=True),
    Column("holder", Words, nullable=False),
    Column("expire_time", UtcTime, nullable=False),
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("sequence", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("time", UtcTime, nullable=False),
    Column("tenant", Words),  # no foreign key: the trail outlives its tenant
    Column("principal", Words, nullable=False),
    Column("role", Words, nullable=False),
    Column("method", Words, nullable=False),
    Column("resource", Words, nullable=False),
    Column("source", Words, nullable=False),
    Column("request_id", Words, nullable=False),
    Column("status", Words, nullable=False),
    Column("before", Json, nullable=False),
    Column("after", Json, nullable=False),
    Index(None, "tenant", "sequence"),
    Index(None, "principal", "sequence"),
    sqlite_autoincrement=True,
)

requests = Table(
    "requests",
    metadata,
    Column("scope", Words, primary_key=True),
    Column("request_id", Words, primary_key=True),
    Column("fingerprint", Words, nullable=False),
    Column("resource", Words, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("tenant", Words),  # whose resource it is: forgotten with the tenant
    Index(None, "tenant"),
)
