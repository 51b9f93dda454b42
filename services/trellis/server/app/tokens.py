"""The tokens and tickets by which attempts and trainers prove themselves: derived from the server's secret, never stored.

A process is started with a ticket, as others may see what it is started with: Ray shows a run's environment. The ticket opens
the first call alone; its answer has the token, which is derived from a nonce of the process, too, and so is that process's
alone.
"""

import hashlib
import hmac
from typing import Final

ATTEMPT_PREFIX: Final = "tra_"
TRAINER_PREFIX: Final = "trt_"
ATTEMPT_TICKET_PREFIX: Final = "trs_"
TRAINER_TICKET_PREFIX: Final = "trn_"


def attempt_token(secret: bytes, job_uid: str, number: int, nonce: str = "") -> str:
    """The attempt's token: derived, so that a server that dies between admitting and launching loses nothing."""
    return ATTEMPT_PREFIX + _mac(secret, f"attempt {job_uid} {number}" + _of(nonce))


def trainer_token(secret: bytes, trainer_uid: str, nonce: str = "") -> str:
    """The trainer's token."""
    return TRAINER_PREFIX + _mac(secret, f"trainer {trainer_uid}" + _of(nonce))


def attempt_ticket(secret: bytes, job_uid: str, number: int) -> str:
    """What the attempt's process is started with."""
    return f"{ATTEMPT_TICKET_PREFIX}{job_uid}-{number}-{_mac(secret, f'attempt ticket {job_uid} {number}')}"


def trainer_ticket(secret: bytes, trainer_uid: str) -> str:
    """What the trainer's process is started with."""
    return f"{TRAINER_TICKET_PREFIX}{trainer_uid}-{_mac(secret, f'trainer ticket {trainer_uid}')}"


def attempt_of(secret: bytes, ticket: str) -> tuple[str, int] | None:
    """The job's uid and the attempt that a ticket is for; None if it is none of ours."""
    job_uid, _, rest = ticket.removeprefix(ATTEMPT_TICKET_PREFIX).rpartition("-")[0].rpartition("-")
    if not rest.isascii() or not rest.isdecimal() or len(rest) > _MAX_DIGITS:
        return None
    number = int(rest)
    return (job_uid, number) if _same(ticket, attempt_ticket(secret, job_uid, number)) else None


def trainer_of(secret: bytes, ticket: str) -> str | None:
    """The uid of the trainer that a ticket is for; None if it is none of ours."""
    uid = ticket.removeprefix(TRAINER_TICKET_PREFIX).rpartition("-")[0]
    return uid if _same(ticket, trainer_ticket(secret, uid)) else None


_MAX_DIGITS = 9


def _of(nonce: str) -> str:
    return f" {nonce}" if nonce else ""


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _mac(secret: bytes, words: str) -> str:
    return hmac.new(secret, words.encode(), hashlib.sha256).hexdigest()
