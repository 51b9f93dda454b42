"""The server's secret, from which attempts' tokens and the engines' secret are derived."""

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path


def read_or_make_secret(path: Path) -> bytes:
    """The secret in the file; made at random, readable by its owner alone, if the file is missing."""
    if not path.exists():
        _make(path)
    secret = path.read_text().strip()
    if len(secret) < 32:
        raise ValueError(f"{path} must hold a secret of at least 32 characters.")
    return secret.encode()


def _make(path: Path) -> None:
    # Written elsewhere and linked: whoever is faster wins, and no crash leaves half a secret behind.
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(secrets.token_hex(32))
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(scratch, path)
    finally:
        scratch.unlink()


def derived(secret: bytes, purpose: str) -> str:
    """Another secret, in hex, for one purpose; tells nothing of the first one."""
    return hmac.new(secret, purpose.encode(), hashlib.sha256).hexdigest()
