"""The very commands of docs/runbooks/backup-and-restore.md, on a real PostgreSQL."""

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import create_engine, insert, select, text
from sqlalchemy.exc import DBAPIError
from tests.postgres import PostgresServer

from trellis.server.store.migrations import migrate
from trellis.server.store.tables import metadata

PAGE = (Path(__file__).parents[2] / "docs/runbooks/backup-and-restore.md").read_text()
TRAIL = metadata.tables["audit_events"]
EVENT = {
    **{name: "" for name, column in TRAIL.columns.items() if str(column.type) == "TEXT"},
    "sequence": 1,
    "time": datetime(2026, 3, 1, tzinfo=UTC),
    "tenant": "acme",
    "before": "{}",
    "after": '{"display_name": "Ünïcödé"}',
}


def command_of(program: str) -> str:
    (line,) = re.findall(rf"^ *({program} --dbname.*)$", PAGE, re.MULTILINE)
    return str(line)


def run(server: PostgresServer, command: str, url: str, folder: Path) -> None:
    """As an operator types it: DATABASE is libpq's URL."""
    path = f"{server.program('pg_dump').parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DATABASE": url.replace("+psycopg", "")}
    words = ["/bin/sh", "-c", command]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def check(url: str) -> int:
    command = [sys.executable, "-m", "trellis.server.store.migrations", "--check"]
    return subprocess.run(command, env={**os.environ, "TRELLIS_DATABASE_URL": url}, check=False).returncode


@pytest.mark.postgres
async def test_what_was_dumped_is_restored_whole_and_guarded_as_before(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    old, new = (postgres_server.create_database() for _ in range(2))
    old_url, new_url = postgres_server.url(old), postgres_server.url(new)
    await migrate(old_url)
    engine = create_engine(old_url)
    with engine.begin() as connection:
        connection.execute(insert(TRAIL), [EVENT])
    engine.dispose()
    assert check(new_url) == 3, "nothing is there yet"

    run(postgres_server, command_of("pg_dump"), old_url, tmp_path)
    run(postgres_server, command_of("pg_restore"), new_url, tmp_path)

    assert check(new_url) == 0
    engine = create_engine(new_url)
    with engine.connect() as connection:
        row = connection.execute(select(TRAIL)).one()._mapping
        assert {name: row[name] for name in EVENT} == EVENT
    with engine.connect() as connection, pytest.raises(DBAPIError, match="audit_events"):
        connection.execute(text("DELETE FROM audit_events"))
    engine.dispose()
    for name in (old, new):
        postgres_server.drop_database(name)
