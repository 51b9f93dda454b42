"""What is asked on both databases."""

from tests.migrated_database import (
    engine,
    migrated_url,
    other_units,
    postgres_template,
    sqlite_template,
    sqlite_units,
    units,
)

__all__ = ["engine", "migrated_url", "other_units", "postgres_template", "sqlite_template", "sqlite_units", "units"]
