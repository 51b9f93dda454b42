"""Files that only their owner may read, from the moment that they are there."""

import os
import secrets
from pathlib import Path


def write_secret_file(path: Path, text: str) -> None:
    """Make the file, on disk when this returns. Raises FileExistsError if there is one."""
    with os.fdopen(open_secret_file(path, os.O_WRONLY | os.O_EXCL), "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def make_secret_file(path: Path, text: str) -> bool:
    """Make the file whole or not at all, whatever dies when; False, and nothing changes, if there is one already.

    Of several processes that do so at once one makes it.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        write_secret_file(scratch, text)
        os.link(scratch, path)
    except FileExistsError:
        return False
    finally:
        scratch.unlink(missing_ok=True)
    return True


def replace_secret_file(path: Path, text: str) -> None:
    """Make the file anew, whole or not at all."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        write_secret_file(scratch, text)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def open_secret_file(path: Path, flags: int) -> int:
    """The descriptor of a file that is made if it is missing."""
    return os.open(path, flags | os.O_CREAT, 0o600)
