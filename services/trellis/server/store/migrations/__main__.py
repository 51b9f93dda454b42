"""`python -m trellis.server.store.migrations`: brings the database of TRELLIS_DATABASE_URL to this version's tables.

It is safe to run it twice, and at several places at once. Its statuses: 0 done, 1 failed, 2 wrong arguments, 3 the database
is behind (with --check), 4 the database is newer than this version can use, 5 the database did not come up in time, 6 somebody
held a lock for too long, or migrated.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Sequence

from alembic import command
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import create_engine
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from trellis.server.store.migrations import DatabaseTooNewError, downgrade, look, migrate
from trellis.server.store.migrations.line import config_for
from trellis.server.store.migrations.locks import USUAL, LockHeldError, LockPatience
from trellis.server.store.migrations.standing import Place, Standing

_PAUSE_SECONDS = 1.0
_BEHIND, _TOO_NEW, _AWAY, _LOCKED = 3, 4, 5, 6


def main(words: Sequence[str]) -> int:
    """Do what the words say; the process's exit status."""
    arguments = _parser().parse_args(words)
    if arguments.write:
        write_revision(arguments.write)
        return 0
    url = arguments.url or os.environ.get("TRELLIS_DATABASE_URL", "").strip()
    if not url:
        return _say("TRELLIS_DATABASE_URL must be set, or --url be given.", 2)
    try:
        return asyncio.run(_work(url, arguments))
    except DatabaseTooNewError as error:
        return _say(str(error), _TOO_NEW)
    except LockHeldError as error:
        return _say(f"Failed: {error}", _LOCKED)
    except OperationalError as error:
        return _say(f"The database did not answer within {arguments.wait:g} s: {_first_line(error)}", _AWAY)
    except (SQLAlchemyError, CommandError, ValueError) as error:
        return _say(f"Failed: {_first_line(error)}", 1)


async def _work(url: str, arguments: argparse.Namespace) -> int:
    found = await _patiently(url, arguments.wait)
    if arguments.check:
        statuses = {Place.EMPTY: _BEHIND, Place.BEHIND: _BEHIND, Place.TOO_NEW: _TOO_NEW}
        return _say(str(found), statuses.get(found.place, 0))
    patience = LockPatience(together=arguments.lock_wait, beside=max(arguments.lock_wait, USUAL.once))
    if arguments.down:
        found = await downgrade(url, arguments.to, patience=patience, say=_progress)
        return _say(f"The database was taken back to {found.found or 'nothing'}.", 0)
    found = await migrate(url, arguments.to, patience=patience, say=_progress)
    if arguments.to not in {"head", found.found}:
        return _say(f"The database is at {found.found}; to take it back drops data, and needs --down.", 1)
    return _say(str(found), 0)


async def _patiently(url: str, seconds: float) -> Standing:
    """Look, again and again while the database is not there."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await look(url)
        except OperationalError as error:
            if time.monotonic() >= deadline:
                raise
            _say(f"Waiting for the database: {_first_line(error)}", 0)
            await asyncio.sleep(_PAUSE_SECONDS)


def write_revision(message: str) -> None:
    """Compare the tables with what the revisions make of an empty database, and write the difference to be edited."""
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        config = config_for(connection)
        command.upgrade(config, "head")
        number = sum(1 for _ in ScriptDirectory.from_config(config).walk_revisions()) + 1
        command.revision(config, message, autogenerate=True, rev_id=f"v{number:04}")
    engine.dispose()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m trellis.server.store.migrations", description=__doc__)
    parser.add_argument("--url", default="", help="the database; that of TRELLIS_DATABASE_URL by default")
    parser.add_argument("--check", action="store_true", help="change nothing, and say where the database stands")
    parser.add_argument("--to", default="head", metavar="REVISION", help="such as v0004; the newest by default")
    parser.add_argument("--down", action="store_true", help="allow to take it back, and to drop what older tables lack")
    parser.add_argument("--wait", type=float, default=60.0, metavar="SECONDS", help="for a database that is not up yet")
    parser.add_argument(
        "--lock-wait",
        type=float,
        default=USUAL.together,
        metavar="SECONDS",
        help="for locks that others hold, each step",
    )
    parser.add_argument("--write", default="", metavar="MESSAGE", help="for developers: write a revision of the tables")
    return parser


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]


def _progress(sentence: str) -> None:
    _say(sentence, 0)


def _say(sentence: str, status: int) -> int:
    print(sentence, file=sys.stderr if status else sys.stdout, flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
