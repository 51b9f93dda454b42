"""What holds the locks that a session of PostgreSQL waits for, in words by which an operator finds it."""

import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Self

import structlog
from sqlalchemy import Connection, Engine, TextClause, text
from sqlalchemy.exc import SQLAlchemyError

_log = structlog.get_logger(__name__)
_REMIND_SECONDS: Final = 15.0
_STATEMENT_CHARACTERS: Final = 120
_LITERAL: Final = re.compile(r"'(?:[^']|'')*'?")
_ABOUT: Final = """
    SELECT held.pid, a.usename, a.application_name, host(a.client_addr) AS address, a.state, a.query,
           extract(epoch FROM clock_timestamp() - a.xact_start) AS seconds
    FROM {pids} AS held(pid) LEFT JOIN pg_stat_activity AS a ON a.pid = held.pid
    ORDER BY a.xact_start, held.pid
"""
_BLOCKING: Final = text(_ABOUT.format(pids="(SELECT DISTINCT unnest(pg_blocking_pids(:pid)))"))
_ADVISORY: Final = text(
    _ABOUT.format(
        pids="""(
            SELECT l.pid FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
            WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.granted AND l.objid = :number
        )"""
    )
)
_WANTED: Final = text(
    "SELECT locktype, relation::regclass::text AS relation FROM pg_locks WHERE pid = :pid AND NOT granted LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class Holder:
    """A session that has what another one waits for."""

    pid: int
    """0 for a prepared transaction, which has no session."""
    user: str = ""
    program: str = ""
    address: str = ""
    state: str = ""
    seconds: float | None = None
    """How long its transaction has been open."""
    statement: str = ""
    """Its present or last one, without what stands in quotes."""

    def __str__(self) -> str:
        if not self.pid:
            return "a prepared transaction (pg_prepared_xacts has them)"
        facts = [
            *([f"user {self.user}"] if self.user else []),
            *([self.program] if self.program else []),
            *([f"at {self.address}"] if self.address else []),
            *([f"in a transaction for {self.seconds:.0f} s"] if self.seconds is not None else []),
            *([self.state] if self.state else []),
            *([f'"{self.statement}"'] if self.statement else []),
        ]
        return f"session {self.pid} ({', '.join(facts)})" if facts else f"session {self.pid}"


@dataclass(frozen=True, slots=True)
class Wait:
    """What a session waits for, and who has it."""

    wanted: str
    holders: Sequence[Holder]

    def __str__(self) -> str:
        return f"{self.wanted}, held by {'; '.join(map(str, self.holders))}"


def wait_of(connection: Connection, pid: int) -> Wait | None:
    """What the session with this process id waits for at present; None if it does not wait for anybody."""
    holders = _holders(connection, _BLOCKING, pid=pid)
    if not holders:
        return None
    wanted = connection.execute(_WANTED, {"pid": pid}).first()
    if wanted is None or not wanted.relation:
        return Wait("the end of transactions that began before it", holders)
    return Wait(f"a lock on {wanted.relation}", holders)


def holders_of(connection: Connection, number: int) -> Sequence[Holder]:
    """Who has the advisory lock of this number, below 2^32."""
    return _holders(connection, _ADVISORY, number=number)


def _holders(connection: Connection, statement: TextClause, **values: int) -> Sequence[Holder]:
    return [
        Holder(
            pid=row.pid,
            user=row.usename or "",
            program=row.application_name or "",
            address=row.address or "",
            state=row.state or "",
            seconds=None if row.seconds is None else float(row.seconds),
            statement=_shown(row.query or ""),
        )
        for row in connection.execute(statement, values)
    ]


def _shown(statement: str) -> str:
    """So much of it that its author knows it again, and no values."""
    if statement.startswith("<"):  # PostgreSQL's word for those that this user may not see
        return ""
    words = " ".join(_LITERAL.sub("'…'", statement).split())
    return words if len(words) <= _STATEMENT_CHARACTERS else f"{words[:_STATEMENT_CHARACTERS]}…"


class Onlooker:
    """Looks, beside a session that works, whom it waits for; when it has given up nobody knows any more."""

    def __init__(self, engine: Engine, pid: int, pause: float, say: Callable[[str], None]) -> None:
        self._engine = engine
        self._pid = pid
        self._pause = pause
        self._say = say
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lock-onlooker", daemon=True)
        self.seen: Wait | None = None
        """The last wait that was seen."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            with self._engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                self._look(connection)
        except SQLAlchemyError as error:
            _log.warning("lock_holders_unknown", why=str(error))  # the step goes on, or fails, by itself

    def _look(self, connection: Connection) -> None:
        said = time.monotonic()
        while not self._done.wait(self._pause):
            found = wait_of(connection, self._pid)
            self.seen = found or self.seen
            if found is not None and time.monotonic() - said >= _REMIND_SECONDS:
                self._say(f"The migration waits for {found}.")
                said = time.monotonic()
