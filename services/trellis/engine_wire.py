"""How the server and an engine's replica speak over Ray Serve's HTTP proxy (docs/adr/0005); pure.

A call is a POST of one protobuf; the answer is a body of frames: one byte of kind, four bytes of length (big-endian),
a protobuf. The last frame of a call that failed is a `google.rpc.Status`.
"""

import struct
from collections.abc import Iterator
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2

from trellis.errors import CLASS_OF_STATUS, DOMAIN, FieldViolation, InternalError, Reason, TrellisError

STREAM_PATH: Final = "/stream-tokens"
STATUS_PATH: Final = "/status"
SECRET_HEADER: Final = "x-trellis-engine-secret"
ADAPTER_HEADER: Final = "x-session-id"
"""Holds the adapter's digest for Serve's choice of a replica; the name is one that Serve hands to its routers."""
MEDIA_TYPE: Final = "application/x-trellis-frames"
MESSAGE: Final = 0
"""The kind of a frame that holds the method's response."""
STATUS: Final = 1
"""The kind of a frame that holds a google.rpc.Status."""
MAX_FRAME_BYTES: Final = 64 << 20
_HEAD: Final = struct.Struct(">BI")


class WireError(ValueError):
    """The bytes are no frames."""


def frame(kind: int, data: bytes) -> bytes:
    """One frame."""
    return _HEAD.pack(kind, len(data)) + data


class FrameReader:
    """Takes frames out of bytes that arrive in any pieces."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def push(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The frames, as kind and content, that are whole now. Raises WireError."""
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            kind, length = _HEAD.unpack_from(self._buffer)
            if kind not in {MESSAGE, STATUS} or length > MAX_FRAME_BYTES:
                raise WireError(f"A frame of kind {kind} and {length} bytes is none of ours.")
            if len(self._buffer) < _HEAD.size + length:
                return
            content = bytes(self._buffer[_HEAD.size : _HEAD.size + length])
            del self._buffer[: _HEAD.size + length]
            yield kind, content


def error_frame(error: TrellisError) -> bytes:
    """The frame that ends a call which failed."""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.STATUS), message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    status.details.add().Pack(info)
    if error.violations:
        bad = error_details_pb2.BadRequest()
        for violation in error.violations:
            bad.field_violations.add(field=violation.field, description=violation.description)
        status.details.add().Pack(bad)
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(round(error.retry_after * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return frame(STATUS, status.SerializeToString())


def read_error(data: bytes) -> TrellisError:
    """The error that an error frame's content says."""
    status = status_pb2.Status.FromString(data)
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status.details:
        for known in (info, bad, retry):
            if detail.Is(known.DESCRIPTOR):
                detail.Unpack(known)
    cls = CLASS_OF_STATUS.get(code_pb2.Code.Name(status.code), InternalError)
    return cls(
        info.reason or Reason.INTERNAL,
        status.message,
        metadata=dict(info.metadata),
        violations=tuple(FieldViolation(v.field, v.description) for v in bad.field_violations),
        retry_after=retry.retry_delay.ToMilliseconds() / 1000 if retry.HasField("retry_delay") else None,
    )
