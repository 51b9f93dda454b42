"""From the secret that a call carries to who calls."""

import hashlib
from dataclasses import replace

from trellis.errors import Reason, TrellisError, error_for
from trellis.names import tenant_of
from trellis.server.app.audit import record
from trellis.server.app.context import Context
from trellis.server.app.ports import UnitOfWork
from trellis.server.app.tokens import (
    ATTEMPT_PREFIX,
    ATTEMPT_TICKET_PREFIX,
    TRAINER_PREFIX,
    TRAINER_TICKET_PREFIX,
    attempt_of,
    trainer_of,
)
from trellis.server.domain.caller import ApiKey, AttemptRef, Caller, Role
from trellis.server.domain.trainer import Trainer
from trellis.server.domain.tuning_job import Attempt

_SCHEME = "bearer "
_OF_PROCESSES = (ATTEMPT_PREFIX, TRAINER_PREFIX, ATTEMPT_TICKET_PREFIX, TRAINER_TICKET_PREFIX)
_DOTS_OF_A_JWT = 2  # our own secrets have none


def secret_hash(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


async def authenticate(context: Context, authorization: str) -> Caller:
    """Who sends this `authorization: Bearer …`; raises Unauthenticated, and says why."""
    if not authorization.lower().startswith(_SCHEME):
        raise _invalid("The call has no API key; send it as `authorization: Bearer …`.")
    secret = authorization[len(_SCHEME) :].strip()
    if secret.count(".") == _DOTS_OF_A_JWT:
        return await _bearer_of_token(context, secret)
    if secret.startswith(_OF_PROCESSES):
        return await _process(context, secret)
    sent = secret_hash(secret)
    key = await context.keys.ask(sent)
    if key is None:
        raise _invalid("The API key is unknown.")
    caller = _caller_of(key, sent, context)
    context.key_uses.note(key, context.now())
    return caller


async def _process(context: Context, secret: str) -> Caller:
    async with context.units(write=False, snapshot=False) as unit:
        if secret.startswith(ATTEMPT_PREFIX):
            return await _attempt(unit, secret)
        if secret.startswith(TRAINER_PREFIX):
            return await _trainer(unit, secret)
        if secret.startswith(ATTEMPT_TICKET_PREFIX):
            return await _attempt_to_begin(unit, context, secret)
        return await _trainer_to_begin(unit, context, secret)


def _caller_of(key: ApiKey, sent: str, context: Context) -> Caller:
    if key.revoke_time is not None:
        when = key.revoke_time.isoformat()
        raise error_for(Reason.API_KEY_REVOKED, f"The API key was revoked at {when}.", metadata={"revoke_time": when})
    if key.expire_time is not None and context.now() >= key.expire_time:
        when = key.expire_time.isoformat()
        raise error_for(Reason.API_KEY_EXPIRED, f"The API key expired at {when}.", metadata={"expire_time": when})
    if sent == key.old_secret_hash and (old_end := key.old_secret_expire_time) and context.now() >= old_end:
        raise error_for(
            Reason.API_KEY_EXPIRED,
            f"The API key was given a new secret, and this one opens nothing since {old_end.isoformat()}.",
            metadata={"expire_time": old_end.isoformat()},
        )
    return Caller(key.role, key.tenant, key.key_id, scopes=key.scopes, principal=key.name)


async def _bearer_of_token(context: Context, token: str) -> Caller:
    if context.tokens is None:
        raise error_for(Reason.TOKEN_INVALID, "This server takes no tokens of identity providers; send an API key.")
    identity = await context.tokens.verify(token, context.now())
    if identity.tenant is not None:
        await _expect_tenant(context, identity.tenant)
    return Caller(
        identity.role, identity.tenant, identity.principal, scopes=identity.scopes, principal=identity.principal
    )


async def _expect_tenant(context: Context, tenant: str) -> None:
    if tenant_of(f"tenants/{tenant}") == tenant:  # it may be any text
        async with context.units(write=False) as unit:
            if await unit.tenants.get(tenant) is not None:
                return
    message = "The tenant that the token's claims name does not exist."
    raise error_for(Reason.TOKEN_INVALID, message, metadata={"check": "tenant"})


async def _attempt(unit: UnitOfWork, token: str) -> Caller:
    attempt = await unit.jobs.find_attempt(secret_hash(token))
    if attempt is None:
        raise _invalid("The attempt's token is unknown.")
    return _attempt_caller(attempt)


async def _trainer(unit: UnitOfWork, token: str) -> Caller:
    trainer = await unit.trainers.find(secret_hash(token))
    if trainer is None:
        raise _invalid("The trainer's token is unknown.")
    return _trainer_caller(trainer)


async def _attempt_to_begin(unit: UnitOfWork, context: Context, ticket: str) -> Caller:
    found = attempt_of(context.settings.server_secret, ticket)
    attempt = await unit.jobs.get_attempt(*found) if found else None
    if attempt is None:
        raise _invalid("The attempt's ticket is unknown.")
    return replace(_attempt_caller(attempt), by_ticket=True)


async def _trainer_to_begin(unit: UnitOfWork, context: Context, ticket: str) -> Caller:
    uid = trainer_of(context.settings.server_secret, ticket)
    trainer = await unit.trainers.get(uid) if uid else None
    if trainer is None:
        raise _invalid("The trainer's ticket is unknown.")
    return replace(_trainer_caller(trainer), by_ticket=True)


def _attempt_caller(attempt: Attempt) -> Caller:
    ref = AttemptRef(attempt.tenant, attempt.job_uid, attempt.number)
    name = f"{attempt.job_uid}-{attempt.number}"
    return Caller(Role.ATTEMPT, attempt.tenant, name, ref, principal=f"attempts/{name}")


def _trainer_caller(trainer: Trainer) -> Caller:
    return Caller(Role.TRAINER, None, trainer.uid, trainer_uid=trainer.uid, principal=f"trainers/{trainer.uid}")


async def create_first_admin_key(context: Context, secret: str = "") -> str | None:
    """Make an admin's key, and return its secret, if the platform has none that opens anything; else None.

    A caller that must not lose the secret writes it down first and passes it in. One that was a key's before makes none.
    """
    async with context.units() as unit:
        if await _has_admin(unit, context):
            return None
        await unit.jobs.lock_queue()  # of several servers that start at once, one is the first
        if await _has_admin(unit, context):
            return None
        if secret and await unit.api_keys.find(secret_hash(secret)) is not None:
            return None
        secret = secret or context.ids.new_secret("trk")
        key = ApiKey(
            key_id=context.ids.new_id("key"),
            tenant=None,
            role=Role.ADMIN,
            display_name="first admin",
            prefix=secret[:8],
            secret_hash=secret_hash(secret),
            create_time=context.now(),
        )
        await unit.api_keys.add(key)
        await record(context, unit, None, key, deed="FirstStart")
        await unit.commit()
    return secret


async def _has_admin(unit: UnitOfWork, context: Context) -> bool:
    cursor: str | None = None
    while True:
        page = await unit.api_keys.list(None, 100, cursor)
        for key in page.items:
            if key.revoke_time is None and (key.expire_time is None or context.now() < key.expire_time):
                return True
        cursor = page.next_cursor
        if cursor is None:
            return False


def _invalid(message: str) -> TrellisError:
    return error_for(Reason.API_KEY_INVALID, message)
