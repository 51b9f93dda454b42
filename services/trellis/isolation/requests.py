"""Requests to any method, made from the API's descriptors alone."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from google.api import resource_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from trellis.access_table import Method, services

_MADE_UP: Final = {"adapter": "0" * 24, "version": "0" * 64, "checkpoint": "7"}


def _patterns() -> dict[str, str]:
    found = {}
    for service in services():
        for message in service.file.message_types_by_name.values():
            resource = message.GetOptions().Extensions[resource_pb2.resource]
            if any(pattern.startswith("tenants/{tenant}") for pattern in resource.pattern):
                found[message.name] = resource.pattern[0]
    return found


PATTERNS: Final = _patterns()
"""By its name in the singular, the pattern of every resource in a tenant."""


def filled(pattern: str, tenant: str, ids: Mapping[str, str]) -> str:
    """A name of the pattern; ids that are not given are made up."""
    for part in pattern.split("{")[1:]:
        variable = part.partition("}")[0]
        value = tenant if variable == "tenant" else ids.get(variable, _MADE_UP.get(variable, "x1"))
        pattern = pattern.replace(f"{{{variable}}}", value)
    return pattern


def name_for(method: Method, tenant: str, ids: Mapping[str, str]) -> str:
    """A name that the method may take, in the tenant: of what it is named for, or of what that is in."""
    words = str(method.descriptor.name).replace("Aliases", "Aliass").replace("Logs", "")
    resource = max((name for name in PATTERNS if name in words), key=len, default="")
    pattern = PATTERNS.get(resource, "tenants/{tenant}")
    if method.access.tenant_field.endswith("parent"):
        pattern = pattern.rpartition("/")[0].rpartition("/")[0] or "tenants/{tenant}"
    return filled(pattern, tenant, ids)


def request_for(method: Method, name: str = "") -> Message:
    """A request that names this where the annotation says, and nothing else."""
    request: Message = GetMessageClass(method.descriptor.input_type)()
    if method.access.tenant_field:
        set_text(request, method.access.tenant_field.split("."), name)
    return request


def set_text(message: Message, path: list[str], text: str) -> None:
    """Set the field at the path, in a new element of each list on the way."""
    target: Any = message
    for part in path[:-1]:
        inner = getattr(target, part)
        target = inner.add() if hasattr(inner, "add") else inner
    if hasattr(getattr(target, path[-1]), "append"):
        getattr(target, path[-1]).append(text)
    else:
        setattr(target, path[-1], text)


def texts_of(message: Descriptor, path: tuple[str, ...] = (), seen: tuple[Descriptor, ...] = ()) -> Iterator[list[str]]:
    """The paths of all fields that are text."""
    for field in message.fields:
        here = (*path, str(field.name))
        inner = field.message_type
        if inner is None:
            if field.type == FieldDescriptor.TYPE_STRING:
                yield list(here)
        elif not inner.full_name.startswith("google.") and inner not in seen and not inner.GetOptions().map_entry:
            yield from texts_of(inner, here, (*seen, inner))
