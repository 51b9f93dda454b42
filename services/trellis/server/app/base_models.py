"""Base models."""

import asyncio
from dataclasses import dataclass
from pathlib import Path

from trellis.bases import BaseFacts, BaseModelError, BaseModelNotFetchedError, read_base
from trellis.errors import InvalidArgument, NotFound, Reason, TrellisError, Unavailable, error_for
from trellis.names import BaseModelName
from trellis.server.app.audit import record
from trellis.server.app.context import Context
from trellis.server.app.etags import check_etag
from trellis.server.app.fields import Violations
from trellis.server.app.idempotency import RequestKey, create_once
from trellis.server.app.pages import Listed, PageQuery, read_page
from trellis.server.app.ports import UnitOfWork
from trellis.server.domain.base_model import BaseModel
from trellis.tokens import ChatTokenizer, TokensError

_MAX_SOURCE = 1000
_FETCH_LOOK_SECONDS = 10.0
"""After so long a call is worth repeating that needs a base which is being fetched."""


@dataclass(frozen=True, slots=True)
class NewBaseModel:
    """A base model to register."""

    base_model_id: str
    display_name: str
    source: str
    revision: str = ""
    is_default: bool = False


async def create_base_model(context: Context, new: NewBaseModel, key: RequestKey) -> BaseModel:
    """Register a base model; its files are read, not loaded. The first one becomes the default."""
    _check(new, key)
    facts, digest = await asyncio.to_thread(_read, new.source, new.revision)

    async def create(unit: UnitOfWork) -> tuple[str, BaseModel]:
        is_default = new.is_default or await unit.base_models.default() is None
        base = BaseModel(
            base_model_id=new.base_model_id,
            display_name=new.display_name,
            source=_lasting_source(new.source, facts),
            revision=facts.revision,
            architecture=facts.architecture,
            context_length=facts.context_length,
            parameter_count=facts.parameter_count,
            vocabulary_size=facts.vocabulary_size,
            tokenizer_digest=digest,
            has_chat_template=facts.has_chat_template,
            is_default=is_default,
            create_time=context.now(),
        )
        await unit.base_models.add(base)
        await record(context, unit, None, base, deed="FirstStart")
        return base.name, base

    return await create_once(context, "CreateBaseModel", key, create, present_base_model)


async def get_base_model(context: Context, name: str) -> BaseModel:
    """Read a base model."""
    async with context.units(write=False, snapshot=False) as unit:
        return await present_base_model(unit, name)


async def list_base_models(context: Context, query: PageQuery) -> Listed[BaseModel]:
    """All base models, oldest first."""
    async with context.units(write=False, snapshot=False) as unit:
        return await read_page("ListBaseModels", query, unit.base_models.list)


async def delete_base_model(context: Context, name: str, etag: str) -> None:
    """Take a base model out of the register; its files stay."""
    async with context.units() as unit:
        base = await present_base_model(unit, name)
        check_etag(etag, name, base.create_time, base.etag_revision)
        users = await unit.base_models.users(base.base_model_id)
        if users:
            used_by = ", ".join(users)
            message = f"{name} is needed by {used_by}."
            raise error_for(Reason.RESOURCE_IN_USE, message, metadata={"used_by": used_by})
        await unit.base_models.delete(base.base_model_id)
        await record(context, unit, base, None)
        await unit.commit()


async def present_base_model(unit: UnitOfWork, name: str) -> BaseModel:
    """The base model; raises NotFound."""
    base = await unit.base_models.get(BaseModelName.parse(name).base_model)
    if base is None:
        raise NotFound.for_resource(name)
    return base


async def chosen_base_model(unit: UnitOfWork, name: str, field: str) -> BaseModel:
    """The base model that a request names, or the default where it names none; raises BASE_MODEL_UNAVAILABLE."""
    base = await find_base_model(unit, name, field)
    if base is None:
        raise base_model_unavailable(name)
    return base


async def find_base_model(unit: UnitOfWork, name: str, field: str) -> BaseModel | None:
    """The base model that a request names, or the default where it names none."""
    if not name:
        return await unit.base_models.default()
    return await unit.base_models.get(BaseModelName.parse(name, field).base_model)


def base_model_unavailable(name: str) -> TrellisError:
    """The error where a base model is not registered."""
    message = f"{name} is not registered." if name else "No base model was named, and the platform has no default."
    return error_for(Reason.BASE_MODEL_UNAVAILABLE, message, metadata={"base_model": name})


async def read_facts(base: BaseModel) -> BaseFacts:
    """What the registered model's files say; raises BASE_MODEL_UNAVAILABLE when they are gone or others."""
    try:
        return await asyncio.to_thread(read_base, base.source, base.revision)
    except BaseModelNotFetchedError as error:
        raise not_fetched(f"{base.name} can't be read yet: {error}", base.name) from error
    except BaseModelError as error:
        message = f"{base.name} can't be read: {error}"
        raise error_for(Reason.BASE_MODEL_UNAVAILABLE, message, metadata={"base_model": base.name}) from error


def not_fetched(message: str, name: str = "") -> Unavailable:
    """The error where the base may be in the cache when the call is repeated."""
    metadata = {"base_model": name} if name else {}
    return Unavailable(Reason.BASE_MODEL_UNAVAILABLE, message, metadata=metadata, retry_after=_FETCH_LOOK_SECONDS)


def _check(new: NewBaseModel, key: RequestKey) -> None:
    violations = Violations()
    violations.id("base_model", new.base_model_id, "base_model_id")
    violations.text(new.display_name, "base_model.display_name")
    violations.text(new.source, "base_model.source", _MAX_SOURCE)
    violations.text(new.revision, "base_model.revision")
    if not new.source:
        violations.add("base_model.source", "It must be a folder, a hub id, or an s3://bucket/prefix.")
    key.check(violations)
    violations.raise_any()


def _read(source: str, revision: str) -> tuple[BaseFacts, str]:
    try:
        facts = read_base(source, revision)
        return facts, ChatTokenizer.load(facts.path).digest
    except BaseModelNotFetchedError as error:
        raise not_fetched(str(error)) from error
    except (BaseModelError, TokensError) as error:
        raise InvalidArgument.for_field("base_model.source", str(error), reason=Reason.BASE_MODEL_INVALID) from error


def _lasting_source(source: str, facts: BaseFacts) -> str:
    # A relative folder would mean another one to a process that was started elsewhere.
    return str(facts.path) if Path(source).expanduser().is_dir() else source
