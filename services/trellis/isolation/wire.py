"""Calls as an attacker makes them: any method, any bytes of a request, the answer unread."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import grpc
from google.protobuf.message import Message

from trellis.access_table import Method
from trellis.client._status import error_of_call
from trellis.client._transport import Target
from trellis.client.settings import Settings

_SECONDS = 20.0
_MOST_PIECES = 50
"""Of a stream that an attacker should not have got in the first place."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call brought."""

    status: str
    reason: str = ""
    message: str = ""
    body: bytes = b""

    @property
    def is_ok(self) -> bool:
        """Whether it was answered."""
        return self.status == "OK"

    def without(self, names: Mapping[str, str]) -> "Answer":
        """The answer with names replaced, so that two can be compared."""
        message = self.message
        for name, word in names.items():
            message = message.replace(name, word)
        return replace(self, message=message)

    def __str__(self) -> str:
        return f"{self.status} {self.reason} {self.message[:200]}".strip()


class Wire:
    """A channel to the installation, for whichever key."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        target = Target.of(settings)
        self._channel: Any = (
            grpc.secure_channel(settings.address, target.credentials, options=target.options)
            if target.credentials
            else grpc.insecure_channel(settings.address, options=target.options)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call(self, method: Method, key: str, *requests: Message, seconds: float = _SECONDS) -> Answer:
        """Call the method once; one that takes a stream gets all requests, others the first."""
        metadata = (("authorization", f"Bearer {key}"),) if key else ()
        try:
            return Answer("OK", body=b"".join(self._pieces(method, metadata, requests, seconds)))
        except grpc.RpcError as error:
            said = error_of_call(error, self._settings.endpoint)
            return Answer(error.code().name, said.reason, str(said))

    def _pieces(
        self, method: Method, metadata: tuple[tuple[str, str], ...], requests: tuple[Message, ...], seconds: float
    ) -> Iterator[bytes]:
        codec = {"request_serializer": _bytes_of, "response_deserializer": None}
        given: dict[str, Any] = {"metadata": metadata, "timeout": seconds}
        if method.descriptor.client_streaming:
            yield self._channel.stream_unary(method.path, **codec)(iter(requests), **given)
        elif method.descriptor.server_streaming:
            call = self._channel.unary_stream(method.path, **codec)(requests[0], **given)
            try:
                for number, piece in enumerate(call):
                    yield piece
                    if number == _MOST_PIECES:
                        break
            finally:
                call.cancel()
        else:
            yield self._channel.unary_unary(method.path, **codec)(requests[0], **given)


def _bytes_of(message: Message) -> bytes:
    return message.SerializeToString()
