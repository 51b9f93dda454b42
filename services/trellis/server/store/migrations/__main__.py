"""For developers: `python -m trellis.server.store.migrations "what changes"` writes a revision from the tables."""

import sys

from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from trellis.server.store.migrations import config_for


def write_revision(message: str) -> None:
    """Compare the tables with what the revisions make of an empty database, and write the difference to be edited."""
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        config = config_for(connection)
        command.upgrade(config, "head")
        number = sum(1 for _ in ScriptDirectory.from_config(config).walk_revisions()) + 1
        command.revision(config, message, autogenerate=True, rev_id=f"v{number:04}")
    engine.dispose()


if __name__ == "__main__":
    write_revision(" ".join(sys.argv[1:]) or "change")
