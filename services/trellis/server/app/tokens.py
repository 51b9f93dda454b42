"""The tokens by which attempts and trainers prove themselves: derived from the server's secret, never stored."""

import hashlib
import hmac

ATTEMPT_PREFIX = "tra_"
TRAINER_PREFIX = "trt_"


def attempt_token(secret: bytes, job_uid: str, number: int) -> str:
    """The attempt's token: derived, so that a server that dies between admitting and launching loses nothing."""
    return ATTEMPT_PREFIX + _mac(secret, f"attempt {job_uid} {number}")


def trainer_token(secret: bytes, trainer_uid: str) -> str:
    """The trainer's token."""
    return TRAINER_PREFIX + _mac(secret, f"trainer {trainer_uid}")


def _mac(secret: bytes, words: str) -> str:
    return hmac.new(secret, words.encode(), hashlib.sha256).hexdigest()
