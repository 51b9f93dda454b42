"""What jobs make: adapters, their aliases and shares, and exports."""

from sqlalchemy import BigInteger, Boolean, Column, ForeignKey, ForeignKeyConstraint, Index, Table, UniqueConstraint

from trellis.server.domain.adapter import Deployment
from trellis.server.domain.export import ExportFormat, ExportState
from trellis.server.store.columns import Json, Named, UtcTime, Words
from trellis.server.store.tables.accounts import tenants
from trellis.server.store.tables.metadata import metadata

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
    Index(None, "base_model", "deployment", "create_time", "digest"),
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
