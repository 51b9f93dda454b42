"""What a server makes sure of before it serves: an admin who can come in, free leases."""

import asyncio
import contextlib
import re
from hashlib import sha256
from pathlib import Path
from typing import Final

import structlog

from trellis.errors import AlreadyExists, Unauthenticated
from trellis.secret_files import write_secret_file
from trellis.server.app.authentication import authenticate, create_first_admin_key
from trellis.server.app.context import Context
from trellis.server.config import ConfigError

_log = structlog.get_logger(__name__)
_DRAFT: Final = ".new"
_SECRET: Final = re.compile(r"trk_[A-Za-z0-9_-]{32,}")


async def ensure_admin_key(context: Context, path: Path) -> None:
    """Write the first admin's key to the file, for its owner alone, if the platform has no admin yet.

    The secret is on disk before it is in the database, under another name: whenever a server dies in between, the next
    start finds a key that opens something, or makes a new one. Several servers may do so at once, over one folder.
    """
    secret = context.ids.new_secret("trk")
    draft = path.with_name(f"{path.name}{_DRAFT}{sha256(secret.encode()).hexdigest()[:16]}")
    write_secret_file(draft, secret + "\n")
    if await create_first_admin_key(context, secret) is not None:
        _log.info("admin_key_written", path=str(path))
    # There is an admin now, so that a draft which opens nothing never will; another server may be doing the same.
    for found in path.parent.glob(f"{path.name}{_DRAFT}*"):
        with contextlib.suppress(FileNotFoundError):
            if await _opens(context, found.read_text().strip()):
                found.replace(path)
            else:
                found.unlink()


async def use_admin_key(context: Context, path: Path) -> None:
    """Make the secret in the file the first admin's key, if the platform has no admin yet; any server may be the first.

    A key that was one before, and was revoked since, stays revoked. Raises ConfigError for what can't be a key.
    """
    secret = (await asyncio.to_thread(path.read_text)).strip()
    if not _SECRET.fullmatch(secret):
        raise ConfigError(
            f"{str(path)!r} of TRELLIS_FIRST_ADMIN_KEY_FILE must hold trk_ and at least 32 of A-Z a-z 0-9 _ -."
        )
    try:
        created = await create_first_admin_key(context, secret)
    except AlreadyExists:
        return  # another server was faster, or it is an old key
    if created is not None:
        _log.info("admin_key_taken", path=str(path))


async def _opens(context: Context, secret: str) -> bool:
    try:
        await authenticate(context, f"Bearer {secret}")
    except Unauthenticated:
        return False
    return True


async def forget_leases(context: Context) -> None:
    """What a server held that is no more is free at once; for an installation that has one server at a time."""
    async with context.units() as unit:
        await unit.leases.release_all()
        await unit.commit()
