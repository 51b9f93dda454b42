"""Connections, statements and errors of a database that is measured."""

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from trellis.server.store.engine import create_engine_for
from trellis.server.store.metrics import forget, measure


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def errors() -> float:
    (family,) = (found for found in REGISTRY.collect() if found.name == "trellis_database_errors")
    return sum(sample.value for sample in family.samples if sample.name.endswith("_total"))


async def test_what_a_database_is_asked_is_counted(migrated_url: str) -> None:
    engine = create_engine_for(migrated_url)
    measure(engine)
    statements, failed = value("trellis_database_statement_seconds_count"), errors()
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
        assert value("trellis_database_connections", state="used") == 1
        with pytest.raises(DBAPIError):
            await connection.execute(text("SELECT nothing FROM nowhere"))
    assert value("trellis_database_connections", state="used") == 0
    assert value("trellis_database_connections", state="most") > 1
    assert value("trellis_database_statement_seconds_count") > statements
    assert errors() == failed + 1
    forget(engine)
    await engine.dispose()
    assert value("trellis_database_connections", state="most") == 0
