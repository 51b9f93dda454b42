"""Where a database stands to this server's code: behind it, at it, ahead of it, and whether the server may use it."""

from dataclasses import dataclass
from enum import StrEnum

from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, select

from trellis.server.store.tables import least_revision


class Place(StrEnum):
    """Of the database, as this code sees it."""

    EMPTY = "EMPTY"
    """It has none of our tables."""
    BEHIND = "BEHIND"
    """Migrations are to be run."""
    CURRENT = "CURRENT"
    AHEAD = "AHEAD"
    """Newer code has migrated it, and this code may use it all the same."""
    TOO_NEW = "TOO_NEW"
    """Newer code has migrated it to what this code does not understand."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A database's revision, and this code's."""

    place: Place
    found: str
    wanted: str

    @property
    def fits(self) -> bool:
        """Whether a server of this code may use the database as it is."""
        return self.place in {Place.CURRENT, Place.AHEAD}

    def __str__(self) -> str:
        match self.place:
            case Place.EMPTY:
                return f"The database is empty; migrations to {self.wanted} have not run yet."
            case Place.BEHIND:
                return f"The database is at {self.found}; migrations to {self.wanted} have not run yet."
            case Place.CURRENT:
                return f"The database is at {self.found}, as it must be."
            case Place.AHEAD:
                return f"The database is at {self.found}, newer than this server's {self.wanted}, which may use it."
        return (
            f"The database is at {self.found}, which servers of {self.wanted} can't use: run the newer version of "
            f"Trellis, or take the database back with it (python -m trellis.server.store.migrations --to {self.wanted} --down)."
        )


def standing(connection: Connection, script: ScriptDirectory) -> Standing:
    """Look; nothing is changed."""
    wanted = script.get_current_head() or ""
    known = {revision.revision for revision in script.walk_revisions()}
    found = MigrationContext.configure(connection).get_current_revision() or ""
    if found == wanted:
        return Standing(Place.CURRENT, found, wanted)
    if not found:
        return Standing(Place.EMPTY, found, wanted)
    if found in known:
        return Standing(Place.BEHIND, found, wanted)
    least = _least(connection)
    return Standing(Place.AHEAD if least in known else Place.TOO_NEW, found, wanted)


def _least(connection: Connection) -> str:
    """The oldest revision whose servers may use the database; see docs/adr/0020."""
    if not inspect(connection).has_table(least_revision.name):
        return ""
    return str(connection.scalar(select(least_revision.c.revision)) or "")
