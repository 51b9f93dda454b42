"""The API of the stand-in, over real HTTP."""

import asyncio
import json
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any, Final

from aiohttp import web

from tests.kube import statuses
from tests.kube.faults import Fault, Faults
from tests.kube.kinds import BY_PATH
from tests.kube.logs import Logs
from tests.kube.pages import Pages
from tests.kube.queries import field_test, label_test
from tests.kube.rbac import Rule, allows
from tests.kube.statuses import StatusError
from tests.kube.store import Store
from tests.kube.watching import Telling
from trellis.server.clusters.kuberay.resources import PODS, Object, Resource

TOKEN: Final = "a-token-of-the-server"
_JSON: Final = "application/json"
_APPLY: Final = "application/apply-patch+yaml"


class KubeServer:
    """Serves a store on a port of this machine. `asked` has every call: group, resource, verb."""

    def __init__(self, store: Store, permissions: Collection[tuple[str, str, str]] | None = None) -> None:
        self.store = store
        self.faults = Faults()
        self.permissions = permissions
        """What the server's account may do; None for everything."""
        self.rules: Sequence[Rule] | None = None
        """Those of its Role, instead."""
        self.asked: list[tuple[str, str, str]] = []
        self.logs = Logs()
        self.bookmark_seconds = 60.0
        self.port = 0
        self._pages = Pages()
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Begins to listen; on the same port if it did before."""
        app = web.Application()
        for root in ("/api/{version}", "/apis/{group}/{version}"):
            base = f"{root}/namespaces/{{namespace}}/{{plural}}"
            app.router.add_route("*", base, self._answer)
            app.router.add_route("*", f"{base}/{{name}}", self._answer)
            app.router.add_route("*", f"{base}/{{name}}/{{part}}", self._answer)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Closes the port and every connection."""
        if self._runner is not None:
            self.faults.cut_watches()
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._handle(request)
        except _Cut:
            return web.Response()  # to nobody
        except StatusError as error:
            return web.json_response(error.body, status=error.code)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.faults.token_expired or request.headers.get("authorization", "").lower() != f"bearer {TOKEN}":
            raise statuses.unauthorized()
        where = request.match_info
        kind = BY_PATH.get((where.get("group", ""), where.get("version", ""), where.get("plural", "")))
        part = "/" + where["part"] if "part" in where else ""
        if kind is None or part not in {"", "/log"} or (part and kind != PODS):
            return web.Response(text="404 page not found\n", status=404)  # no Status: nobody serves the path
        verb = verb_of(request)
        self._check(verb, kind, part, request)
        return await self._through_faults(verb, kind, part, request)

    async def _through_faults(self, verb: str, kind: Resource, part: str, request: web.Request) -> web.StreamResponse:
        fault = self.faults.take(verb, kind.plural)
        await asyncio.sleep(fault.seconds)
        refuse(fault, request)
        if verb == "watch":
            return await self._watch(request, kind)
        try:
            return await self._do(verb, kind, part, request)
        finally:
            if fault.loses_answer:
                cut(request)

    def _check(self, verb: str, kind: Resource, part: str, request: web.Request) -> None:
        namespace, name = request.match_info["namespace"], request.match_info.get("name", "")
        self.asked.append((kind.group, kind.plural + part, verb))
        # What an apply makes, it creates: that is asked for as well, without a name.
        makes = request.content_type == _APPLY and not self.store.has(kind, namespace, name)
        if not self._may((kind.group, kind.plural + part, verb), name):
            raise statuses.forbidden(verb, kind, part, namespace, name)
        if makes and not self._may((kind.group, kind.plural, "create"), ""):
            raise statuses.may_not_make(kind, name)

    def _may(self, call: tuple[str, str, str], name: str) -> bool:
        if self.rules is not None:
            return allows(self.rules, call, name)
        return self.permissions is None or call in self.permissions

    async def _do(self, verb: str, kind: Resource, part: str, request: web.Request) -> web.StreamResponse:
        namespace, name = request.match_info["namespace"], request.match_info.get("name", "")
        store = self.store
        if part:
            pod = store.get(PODS, namespace, name)
            if not self.logs.has_begun(pod, request.query) and not pod["spec"].get("nodeName"):
                return web.Response(status=204)  # there is no node to ask
            return web.Response(text=self.logs.read(pod, request.query), content_type="text/plain")
        if verb == "get":
            return web.json_response(store.get(kind, namespace, name))
        if verb == "list":
            return web.json_response(self._list(kind, namespace, request))
        if verb == "delete":
            options = await _body(request) if request.can_read_body else {}
            return web.json_response(self._deleted(kind, namespace, name, options))
        body = await _body(request)
        if verb == "create":
            return web.json_response(store.create(kind, namespace, body), status=201)
        if request.content_type == "application/merge-patch+json":
            return web.json_response(store.patch(kind, namespace, name, body))
        if request.content_type == _APPLY and request.query.get("fieldManager"):
            return web.json_response(store.apply(kind, namespace, body))
        raise StatusError(
            415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {request.content_type}"
        )

    def _list(self, kind: Resource, namespace: str, request: web.Request) -> Object:
        labels, fields = (
            label_test(request.query.get("labelSelector", "")),
            field_test(request.query.get("fieldSelector", "")),
        )
        found = [one for one in self.store.list(kind, namespace) if labels(one) and fields(one)]
        items, metadata = self._pages.cut(found, self.store, request.query)
        # As the real one does, for its own kinds: the objects of a list do not say what they are.
        bare = items if kind.group == "ray.io" else [_bare(one) for one in items]
        return {"apiVersion": kind.api_version, "kind": f"{kind.kind}List", "metadata": metadata, "items": bare}

    def _deleted(self, kind: Resource, namespace: str, name: str, options: Object) -> Object:
        present = self.store.get(kind, namespace, name)
        details = {"name": name, "kind": kind.plural, "uid": present["metadata"]["uid"]}
        left = self.store.delete(kind, namespace, name, options)
        details.update({"group": kind.group} if kind.group else {})
        gone = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        return left or gone

    async def _watch(self, request: web.Request, kind: Resource) -> web.StreamResponse:
        if self.faults.gone_as_status and int(request.query.get("resourceVersion") or "0") < self.store.floor:
            raise statuses.expired()
        response = web.StreamResponse(headers={"Content-Type": _JSON})
        response.enable_chunked_encoding()
        await response.prepare(request)
        telling_of = Telling(request, response, kind, self.store, self.faults)
        cutting = asyncio.create_task(self.faults.cutting.wait())
        telling = asyncio.create_task(telling_of.run(self.bookmark_seconds))
        try:
            await asyncio.wait({cutting, telling}, return_when=asyncio.FIRST_COMPLETED)
            if cutting.done() and not telling.done():
                with suppress(ConnectionError):
                    await response.write(b'{"type":"MODIF')
                cut(request)
            elif not telling.cancelled() and (error := telling.exception()) and not isinstance(error, ConnectionError):
                raise error
        finally:
            for task in (cutting, telling):
                task.cancel()
            await asyncio.gather(cutting, telling, return_exceptions=True)
        return response


def verb_of(request: web.Request) -> str:
    """As Roles have it."""
    if request.method == "GET" and "name" in request.match_info:
        return "get"
    if request.method == "GET":
        return "watch" if request.query.get("watch") in {"1", "true"} else "list"
    verbs = {"POST": "create", "PATCH": "patch", "DELETE": "delete", "PUT": "update"}
    if request.method not in verbs:
        raise StatusError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    return verbs[request.method]


def refuse(fault: Fault, request: web.Request) -> None:
    """Let the fault happen that comes before anything is done."""
    if fault.cut:
        cut(request)
    if not fault.status:
        return
    headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
    if fault.status == 429:  # before anything that would know how to write a Status
        raise _Refusal(429, headers, "Too many requests, please try again later.\n", "text/plain")
    reasons = {500: "InternalError", 503: "ServiceUnavailable", 504: "Timeout"}
    said = StatusError(fault.status, reasons[fault.status], "the server is not well, please try again later")
    raise _Refusal(said.code, headers, json.dumps(said.body), _JSON)


class _Cut(Exception):
    """The connection is gone."""


class _Refusal(web.HTTPException):
    def __init__(self, status: int, headers: dict[str, str], text: str, content_type: str) -> None:
        self.status_code = status
        super().__init__(headers=headers, text=text, content_type=content_type)


def cut(request: web.Request) -> None:
    """The connection breaks."""
    transport = request.transport
    if transport is not None:
        transport.abort()
    raise _Cut


async def _body(request: web.Request) -> Any:
    try:
        return json.loads(await request.text())
    except ValueError as error:
        raise statuses.bad_request(f"the object provided is unrecognized: {error}") from error


def _bare(one: Object) -> Object:
    return {name: value for name, value in one.items() if name not in {"apiVersion", "kind"}}
