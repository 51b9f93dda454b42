"""The revisions, one after the other, and the next step from where a database stands to where it shall be."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection

_Verb = Callable[[Config, str], None]


@dataclass(frozen=True, slots=True)
class Step:
    """One revision, up or down."""

    revision: str
    """Whose code runs."""
    target: str
    """Where the database is then; `base` where it has none of our tables any more."""
    verb: _Verb
    in_transaction: bool
    """False for one that PostgreSQL can only do, or does without blocking writers, statement by statement."""

    def run(self, connection: Connection) -> None:
        """Take it on this connection, and inside its transaction if it has one."""
        self.verb(config_for(connection), self.target)


class Line:
    """All revisions that this code knows, oldest first."""

    def __init__(self) -> None:
        self.script = ScriptDirectory.from_config(_config())
        self._revisions: list[Script] = [*self.script.walk_revisions()][::-1]

    def up(self, found: str, target: str) -> Step | None:
        """The next step up; None where the database is at the target, or beyond. Raises CommandError for an unknown target."""
        here, there = self._place(found), self._place_of_target(target)
        if here >= there:
            return None
        script = self._revisions[here + 1]
        return Step(script.revision, script.revision, command.upgrade, _in_transaction(script))

    def down(self, found: str, target: str) -> Step | None:
        """The next step down; None where the database is at the target, or before. Raises CommandError for an unknown target."""
        here, there = self._place(found), self._place_of_target(target)
        if here <= there:
            return None
        script = self._revisions[here]
        below = self._revisions[here - 1].revision if here else "base"
        return Step(script.revision, below, command.downgrade, _in_transaction(script))

    def _place_of_target(self, target: str) -> int:
        return self._place("" if target == "base" else self.script.get_revision(target).revision)

    def _place(self, revision: str) -> int:
        """-1 before the first."""
        if not revision:
            return -1
        names = [script.revision for script in self._revisions]
        if revision not in names:
            raise ValueError(f"The database is at {revision}, which this version does not know: use the newer one.")
        return names.index(revision)


def config_for(connection: Connection) -> Config:
    """Alembic's configuration, for migrations on this connection."""
    config = _config()
    config.attributes["connection"] = connection
    return config


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


def _in_transaction(script: Script) -> bool:
    return bool(getattr(script.module, "in_transaction", True))
