"""The server's secret, from which attempts' tokens and the engines' secret are derived."""

import hashlib
import hmac
import secrets
from pathlib import Path

from trellis.secret_files import make_secret_file


def read_or_make_secret(path: Path) -> bytes:
    """The secret in the file; made at random, readable by its owner alone, if the file is missing."""
    if not path.exists():
        make_secret_file(path, secrets.token_hex(32))
    secret = path.read_text().strip()
    if len(secret) < 32:
        raise ValueError(f"{path} must hold a secret of at least 32 characters.")
    return secret.encode()


def derived(secret: bytes, purpose: str) -> str:
    """Another secret, in hex, for one purpose; tells nothing of the first one."""
    return hmac.new(secret, purpose.encode(), hashlib.sha256).hexdigest()
