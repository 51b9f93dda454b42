"""The database: SQLAlchemy tables, the unit of work, and alembic migrations."""
