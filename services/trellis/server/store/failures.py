"""What the database's errors mean to callers."""

import sqlite3

from sqlalchemy.exc import DBAPIError, TimeoutError as PoolTimeoutError

from trellis.errors import Aborted, AlreadyExists, NotFound, Reason, TrellisError, Unavailable
from trellis.server.app.ports import RowsHeld

_LOST_RACE = {"40001", "40P01", "23503", "23505"}  # serialization, deadlock, foreign key, unique
_LOST_RACE_SQLITE = {
    sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY,
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY,
    sqlite3.SQLITE_CONSTRAINT_UNIQUE,
}
_LOCK_TIMEOUT = "55P03"
# Statement timeout, idle for too long in a transaction or without one.
_UNREACHABLE = {"57014", "25P03", "57P05"}
# Connections, resources (too many connections, a full disk), the operator's doing (a shutdown), the machine's own errors.
_UNREACHABLE_CLASSES = ("08", "53", "57P", "58")
_READ_ONLY = "25006"


def translated(error: BaseException | None) -> TrellisError | None:
    """The error for callers, if it is one of the database that may pass; else None, for it is a bug or a bad disk."""
    if isinstance(error, PoolTimeoutError):
        return busy()
    if not isinstance(error, DBAPIError):
        return None
    if _sqlstate(error) in _LOST_RACE or _sqlite_code(error) in _LOST_RACE_SQLITE:
        message = "Somebody else changed the same things meanwhile. Try again."
        return Aborted(Reason.CONCURRENT_CHANGE, message, retry_after=0.1)
    if _sqlstate(error) == _READ_ONLY:
        return read_only()
    if _sqlstate(error) == _LOCK_TIMEOUT:
        return RowsHeld(Reason.DATABASE_BUSY, str(busy()), retry_after=1.0)
    return busy() if _is_unreachable(error) else None


def already_exists(name: str) -> AlreadyExists:
    """There is one of this name."""
    return AlreadyExists(Reason.RESOURCE_EXISTS, f"{name} exists already.", metadata={"resource": name})


def expect_one(changed: int, name: str) -> None:
    """Raise NotFound if the row that was to be changed is gone."""
    if changed == 0:
        raise NotFound.for_resource(name)


def busy() -> Unavailable:
    """The database has no time for us at present."""
    message = "The database is busy or can't be reached. Try again."
    return Unavailable(Reason.DATABASE_BUSY, message, retry_after=1.0)


def read_only() -> Unavailable:
    """The database answers, and takes nothing new."""
    message = "The database takes no writes at present: it is read-only, or a standby. Reads are answered. Try again."
    return Unavailable(Reason.DATABASE_BUSY, message, retry_after=5.0)


def _is_unreachable(error: DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_code(error) & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
    state = _sqlstate(error)
    if error.connection_invalidated or state in _UNREACHABLE or state.startswith(_UNREACHABLE_CLASSES):
        return True
    # A connection that could not be made at all has no state.
    return not state and "OperationalError" in {kind.__name__ for kind in type(error.orig).__mro__}


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""


def _sqlite_code(error: DBAPIError) -> int:
    return getattr(error.orig, "sqlite_errorcode", 0)
