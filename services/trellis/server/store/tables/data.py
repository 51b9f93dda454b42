"""Base models, datasets, and what was found in them."""

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, ForeignKeyConstraint, Index, Table, text

from trellis.server.domain.dataset import ReportState, VersionState
from trellis.server.store.columns import Named, UtcTime, Words
from trellis.server.store.tables.accounts import tenants
from trellis.server.store.tables.metadata import metadata

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
