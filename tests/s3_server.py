"""A real S3 server on this machine (moto), spoken to over HTTP, which can be told to fail as real ones do."""

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.s3.models import s3_backends
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from tests.moto_uploads import list_as_s3_does
from trellis.objects import ObjectStore

KEY, SECRET, BUCKET = "k", "s", "trellis-tests"
Environment = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Request:
    """One call, as the server got it."""

    method: str
    path: str
    query: str
    headers: dict[str, str]


@dataclass(slots=True)
class Fault:
    """What happens to the next `times` requests of a method whose address has `words` in it."""

    method: str
    words: str = ""
    times: int = 1
    status: int = 0
    """Answered instead of doing it."""
    code: str = ""
    delay: float = 0.0
    cut_after: int | None = None
    """The answer's connection is cut after so many bytes; below 0 before any, though it is done."""
    short: int | None = None
    """The answer has so many bytes, and says that these are all."""

    def concerns(self, request: Request) -> bool:
        address = f"{request.path}?{request.query}"
        return self.times > 0 and request.method == self.method and self.words in address


@dataclass
class FaultyS3:
    """The server; `requests` has what came since a test cleared it."""

    endpoint: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._application = DomainDispatcherApplication(create_backend_app)
        self._ended = threading.Event()

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.endpoint)
        return str(parts.hostname), int(parts.port or 0)

    def end(self) -> None:
        self._ended.set()

    def store(self, *, key: str = KEY, bucket: str = BUCKET, endpoint: str = "", **options: Any) -> ObjectStore:
        """A store as the server has it, but for the credentials, which are not in the environment here."""
        return ObjectStore.open(
            f"s3://{bucket}/prefix",
            key=key,
            secret=SECRET,
            endpoint_url=endpoint or self.endpoint,
            skip_instance_cache=True,
            client_kwargs={"region_name": "us-east-1"},
            **options,
        )

    def __call__(self, environ: Environment, start_response: Callable[..., Any]) -> Iterable[bytes]:
        headers = {name[5:].lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
        request = Request(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"], headers)
        self.requests.append(request)
        fault = next((one for one in self.faults if one.concerns(request)), None)
        if fault is not None:
            fault.times -= 1
            self._ended.wait(fault.delay)
            if fault.status:
                return _refuse(environ, start_response, fault.status, fault.code)
        if f"Credential={KEY}/" not in headers.get("authorization", ""):
            return _refuse(environ, start_response, 403, "InvalidAccessKeyId")
        if fault is not None and (fault.cut_after is not None or fault.short is not None):
            return self._broken(fault, environ, start_response)
        answer: Iterable[bytes] = self._application(environ, start_response)
        return answer

    def _broken(self, fault: Fault, environ: Environment, start_response: Callable[..., Any]) -> Iterator[bytes]:
        said: list[Any] = []
        answer = self._application(environ, lambda *words: said.extend(words))
        body = b"".join(answer)
        status, headers = said[:2]
        if fault.short is not None:
            body = body[: fault.short]
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
            headers.append(("Content-Length", str(len(body))))
        if fault.cut_after is not None and fault.cut_after < 0:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            return
        start_response(status, headers)
        yield body[: fault.cut_after]
        if fault.cut_after is not None:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)


def _refuse(environ: Environment, start_response: Callable[..., Any], status: int, code: str) -> list[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    body = f"<Error><Code>{code}</Code><Message>No: {code}.</Message></Error>".encode()
    if environ["REQUEST_METHOD"] == "HEAD":
        body = b""
    start_response(f"{status} No", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002 - as its base calls it
        """Nothing: a fault is no news here."""


@contextmanager
def s3_server() -> Iterator[FaultyS3]:
    """A server with an empty bucket."""
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    list_as_s3_does()
    faulty = FaultyS3()
    server: BaseWSGIServer = make_server("127.0.0.1", 0, faulty, threaded=True, request_handler=_Handler)
    faulty.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        faulty.store()._fs.call_s3("create_bucket", Bucket=BUCKET)
        faulty.requests.clear()
        yield faulty
    finally:
        faulty.end()
        server.shutdown()
        server.server_close()
        thread.join(10)


def fill(keys: Iterable[str]) -> None:
    """Put small objects into the bucket of every server in this process, past all calls."""
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for key in keys:
        backend.put_object(BUCKET, key, b"x")
