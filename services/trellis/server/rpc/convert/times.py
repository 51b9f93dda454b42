"""Moments and durations."""

from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from trellis.errors import InvalidArgument


def timestamp(moment: datetime | None) -> Timestamp | None:
    """The moment on the wire; None stays unset."""
    if moment is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def moment(message: Message, field: str, path: str) -> datetime | None:
    """The moment in the message's field, None if it is not set; raises InvalidArgument naming `path`."""
    if not message.HasField(field):
        return None
    try:
        found: datetime = getattr(message, field).ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument.for_field(path, f"It is not a time ({error}).") from None
    return found


def span(message: Message, field: str, path: str) -> timedelta | None:
    """The duration in the message's field, None if it is not set; raises InvalidArgument naming `path`."""
    if not message.HasField(field):
        return None
    try:
        found: timedelta = getattr(message, field).ToTimedelta()
    except (ValueError, OverflowError) as error:
        raise InvalidArgument.for_field(path, f"It is not a duration ({error}).") from None
    return found


def duration(seconds: float | None) -> Duration | None:
    """The duration on the wire; None stays unset."""
    if seconds is None:
        return None
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))
