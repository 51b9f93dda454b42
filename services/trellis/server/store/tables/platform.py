"""Leases, the audit trail, the requests that are remembered, and which servers may use the database."""

from sqlalchemy import BigInteger, Column, Index, Integer, Table

from trellis.server.store.columns import Json, UtcTime, Words
from trellis.server.store.tables.metadata import metadata

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
    Index(None, "create_time"),
)

least_revision = Table(
    "least_revision",
    metadata,
    Column(
        "revision", Words, primary_key=True
    ),  # one row: servers whose newest revision is this one or a later one may
)
