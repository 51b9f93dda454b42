"""What requests of all services have in common: a page to read, a request_id to remember."""

import hashlib
from typing import Any, Protocol

from google.protobuf.message import Message

from trellis.server.app.idempotency import RequestKey
from trellis.server.app.pages import PageQuery

ServicerContext = Any
"""grpc.aio's context of a call; the servicers leave it to the interceptor."""


class _PageRequest(Protocol):
    @property
    def page_size(self) -> int: ...
    @property
    def page_token(self) -> str: ...


def page_query(request: _PageRequest) -> PageQuery:
    """Which page is asked for."""
    return PageQuery(request.page_size, request.page_token)


def request_key(request: Message, request_id: str) -> RequestKey:
    """The create's request_id, with the fingerprint of the whole request."""
    if not request_id:
        return RequestKey()
    fingerprint = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
    return RequestKey(request_id, fingerprint)
