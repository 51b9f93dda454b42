"""Tenants and their keys."""

from sqlalchemy import BigInteger, Column, Double, ForeignKey, Index, Table, UniqueConstraint, text

from trellis.server.domain.caller import Role
from trellis.server.store.columns import Json, Named, UtcTime, Words
from trellis.server.store.tables.metadata import metadata

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
