"""Jobs, their attempts and what they leave, and trainers."""

from sqlalchemy import BigInteger, Boolean, Column, Double, ForeignKey, Index, Table, UniqueConstraint, false, text

from trellis.server.domain.trainer import TrainerState
from trellis.server.domain.tuning_job import EventLevel, JobState
from trellis.server.store.columns import Json, Named, UtcTime, Words
from trellis.server.store.tables.accounts import tenants
from trellis.server.store.tables.metadata import metadata

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
    Column("warnings", Json),
    Column("attempt_count", BigInteger, nullable=False),
    Column("failure_count", BigInteger, nullable=False, server_default=text("0")),
    Column("memory_halvings", BigInteger, nullable=False, server_default=text("0")),
    Column("decline_count", BigInteger, nullable=False, server_default=text("0")),
    Column("used_tokens", BigInteger, nullable=False, server_default=text("0")),
    Column("used_seconds", Double, nullable=False, server_default=text("0")),
    Column("export_id", Words, nullable=False, server_default=text("''")),
    Column("priority", BigInteger, nullable=False, server_default=text("0")),
    Column("estimate", Json),
    Column("adapted_share", Double, nullable=False, server_default=text("1")),
    Column("preemption_count", BigInteger, nullable=False, server_default=text("0")),
    Column("stop_time", UtcTime),
    Column("retry_time", UtcTime),
    Column("start_time", UtcTime),
    Column("cancel_time", UtcTime),
    Column("end_time", UtcTime),
    Column("event_count", BigInteger, nullable=False),
    Column("log_size", BigInteger, nullable=False),  # in characters
    Column("revision", BigInteger, nullable=False),
    Column("traceparent", Words, nullable=False, server_default=text("''")),
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
    Column("traceparent", Words, nullable=False, server_default=text("''")),
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
