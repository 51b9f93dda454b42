"""New secrets for API keys, while the old ones still open for a time."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from trellis.errors import FailedPrecondition, Reason
from trellis.server.app.api_keys import PREFIX_LENGTH, present_key
from trellis.server.app.audit import record
from trellis.server.app.authentication import secret_hash
from trellis.server.app.authorisation import require_cover
from trellis.server.app.context import Context
from trellis.server.app.fields import Violations
from trellis.server.domain.caller import ApiKey, Caller

MAX_OVERLAP = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class Rotation:
    """What is asked of a rotation; `expire_time` None leaves the key's own."""

    name: str
    overlap: timedelta = timedelta(0)
    expire_time: datetime | None = None


async def rotate_api_key(context: Context, caller: Caller, asked: Rotation) -> tuple[ApiKey, str]:
    """Give a key a new secret, which is in the answer and nowhere else; the old one opens until the overlap is over.

    Whoever gets a secret gets all that its key opens: it must not be more than they have. Raises PermissionDenied,
    NotFound, FailedPrecondition for a revoked or expired key, InvalidArgument.
    """
    secret = context.ids.new_secret("trk")
    async with context.units() as unit:
        key = await present_key(unit, asked.name, for_update=True)
        require_cover(caller, key.role, key.scopes)
        _check(context, asked, key)
        now = context.now()
        rotated = replace(
            key,
            prefix=secret[:PREFIX_LENGTH],
            secret_hash=secret_hash(secret),
            rotate_time=now,
            old_secret_hash=key.secret_hash,
            old_secret_expire_time=now + asked.overlap,
            expire_time=asked.expire_time or key.expire_time,
        )
        await unit.api_keys.save(rotated)
        await record(context, unit, key, rotated)
        await unit.commit()
    return rotated, secret


def _check(context: Context, asked: Rotation, key: ApiKey) -> None:
    now, violations = context.now(), Violations()
    if not timedelta(0) <= asked.overlap <= MAX_OVERLAP:
        violations.add("overlap", f"It must be {MAX_OVERLAP.days} days at the most, and not negative.")
    if asked.expire_time is not None and asked.expire_time <= now:
        violations.add("expire_time", "It must lie in the future.")
    violations.raise_any()
    if key.revoke_time is not None:
        raise _over(asked.name, f"was revoked at {key.revoke_time.isoformat()}")
    if key.expire_time is not None and key.expire_time <= now:
        raise _over(asked.name, f"expired at {key.expire_time.isoformat()}")


def _over(name: str, how: str) -> FailedPrecondition:
    message = f"{name} {how}, and gets no new secret; create another key."
    return FailedPrecondition(Reason.INVALID_STATE, message, metadata={"resource": name})
