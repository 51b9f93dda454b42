"""Between the API's messages and the SDK's dataclasses: the one place that does it, by the names of their fields."""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from trellis.client._status import details_of, name_of_code
from trellis.client.types import JobError
from trellis.errors import InvalidArgument

T = TypeVar("T")
M = TypeVar("M", bound=Message)


def from_proto(cls: type[T], message: Message) -> T:
    """The dataclass that a message stands for; values of enums that this version does not know are UNSPECIFIED."""
    fields: Mapping[str, Any] = message.DESCRIPTOR.fields_by_name
    return cls(**{name: _read(hint, message, fields[name]) for name, hint in _hints_of(cls).items()})


def enum_number(value: StrEnum, descriptor: EnumDescriptor) -> int:
    """The number of an enum's value on the wire."""
    return int(descriptor.values_by_name[_prefix(descriptor) + value].number)


def fill(message: M, value: object, path: str = "") -> M:
    """Set a message's fields from a dataclass and return it; what is None stays unset.

    `path` is the message's own in the request. Raises InvalidArgument, which names the field, for a value that is of
    another type.
    """
    fields: Mapping[str, Any] = message.DESCRIPTOR.fields_by_name
    for name in _hints_of(type(value)):
        _write(message, fields[name], getattr(value, name), f"{path}.{name}" if path else name)
    return message


def _hints_of(cls: Any) -> Mapping[str, Any]:
    hints: Mapping[str, Any] = _hints(cls)
    return hints


@functools.cache
def _hints(cls: Any) -> Mapping[str, Any]:
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _read(hint: Any, message: Message, field: FieldDescriptor) -> Any:
    optional = isinstance(hint, types.UnionType)
    if optional and field.has_presence and not message.HasField(field.name):
        return None
    bare = next(a for a in typing.get_args(hint) if a is not type(None)) if optional else hint
    value = getattr(message, field.name)
    origin = typing.get_origin(bare)
    if origin is tuple:
        item = typing.get_args(bare)[0]
        return tuple(_value(item, element, field) for element in value)
    if origin is Mapping:
        return _in_order(json_format.MessageToDict(value) if isinstance(value, Struct) else dict(value))
    return _value(bare, value, field)


def _in_order(value: Any) -> Any:
    """JSON with keys in order: a message's maps have none, so that each server process gives them in another."""
    if isinstance(value, Mapping):
        return {key: _in_order(value[key]) for key in sorted(value)}
    return [_in_order(one) for one in value] if isinstance(value, list) else value


def _value(hint: Any, value: Any, field: FieldDescriptor) -> Any:
    if hint is JobError:
        return _job_error(value)
    if hint is datetime:
        return value.ToDatetime(tzinfo=UTC)
    if hint is timedelta:
        return value.ToTimedelta()
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _enum(hint, value, field)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_proto(hint, value)
    return value


def _enum(hint: type[StrEnum], number: int, field: FieldDescriptor) -> StrEnum:
    descriptor = field.enum_type
    assert descriptor is not None
    known = descriptor.values_by_number.get(number)
    name = known.name.removeprefix(_prefix(descriptor)) if known else ""
    return hint.__members__.get(name, hint("UNSPECIFIED"))


@functools.cache
def _prefix(descriptor: EnumDescriptor) -> str:
    return descriptor.values_by_number[0].name.removesuffix("UNSPECIFIED")


def _job_error(status: Any) -> JobError:
    details = details_of(status)
    return JobError(
        name_of_code(status.code), details.reason, status.message, dict(details.metadata), details.violations
    )


def _write(message: Message, field: FieldDescriptor, value: Any, path: str) -> None:
    if value is None:
        return
    if isinstance(value, str) and field.enum_type is not None:
        setattr(message, field.name, _number(value, field.enum_type, path))
    elif isinstance(value, (tuple, list)):
        _extend(getattr(message, field.name), value)
    elif dataclasses.is_dataclass(value):
        target = getattr(message, field.name)
        target.SetInParent()
        fill(target, value, path)
    else:
        try:
            setattr(message, field.name, value)
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidArgument.for_field(path, f"{path}: {value!r} can't be its value ({error}).") from None


def _number(value: str, descriptor: EnumDescriptor, path: str) -> int:
    """The number of a value that is given by its name, as the SDK's enum has it or the API's, in any case."""
    prefix = _prefix(descriptor)
    known = descriptor.values_by_name.get(prefix + value.upper().removeprefix(prefix))
    if known is None:
        names = ", ".join(one.name.removeprefix(prefix) for one in descriptor.values if one.number)
        raise InvalidArgument.for_field(path, f"{path}: {str(value)!r} is none of {names}.")
    return int(known.number)


def _extend(target: Any, values: tuple[Any, ...] | list[Any]) -> None:
    for value in values:
        if isinstance(value, Mapping):
            target.add().update(value)
        elif dataclasses.is_dataclass(value):
            fill(target.add(), value)
        else:
            target.append(value)
