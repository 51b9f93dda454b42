"""What was held and used, and what is derived from it."""

from sqlalchemy import BigInteger, Column, Double, ForeignKey, Index, Integer, Table, UniqueConstraint

from trellis.server.domain.ledger import EntryKind, Meter
from trellis.server.store.columns import Named, UtcTime, Words
from trellis.server.store.tables.accounts import tenants
from trellis.server.store.tables.metadata import metadata

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
