"""A door to a real cluster's API: it counts the calls and makes things go wrong as the stand-in does; the answers are real."""

import asyncio
import json
import ssl
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any

import aiohttp
from aiohttp import web

from tests.kube.kinds import BY_PATH
from tests.kube.real_store import RealStore
from tests.kube.server import TOKEN, KubeServer, cut, verb_of
from tests.kube.statuses import StatusError
from trellis.server.clusters.kuberay.resources import PODS, RAY_JOBS, Object, Resource

_WATCH = aiohttp.ClientTimeout(total=None, connect=5.0)


class RealServer(KubeServer):
    """Hands every call on, with the token of an account that may do what `permissions` says."""

    def __init__(
        self, store: RealStore, tokens: Mapping[frozenset[tuple[str, str, str]], str], permissions: Collection[Any]
    ) -> None:
        super().__init__(store, permissions)
        self._real = store
        self._tokens = tokens
        self.token = ""
        """Of another account, which a test has made."""
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        await super().start()
        trust = ssl.create_default_context(cafile=self._real.authority)
        if not self._real.verifies:
            trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        certificate, key = self._real.certificate
        if certificate:
            trust.load_cert_chain(certificate, key)
        strangers = ssl.create_default_context(cafile=self._real.authority)
        strangers.check_hostname, strangers.verify_mode = trust.check_hostname, trust.verify_mode
        self._trust = {True: trust, False: strangers}
        self._session = aiohttp.ClientSession(auto_decompress=True)

    async def stop(self) -> None:
        session, self._session = self._session, None
        try:
            await super().stop()
        finally:
            if session is not None:
                await session.close()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        where = request.match_info
        kind = BY_PATH.get((where.get("group", ""), where.get("version", ""), where.get("plural", "")))
        if kind is None or request.method == "OPTIONS":
            return await self._passed_on(request, None)
        verb, part = verb_of(request), "/" + where["part"] if "part" in where else ""
        self.asked.append((kind.group, kind.plural + part, verb))
        return await self._through_faults(verb, kind, part, request)

    async def _do(self, verb: str, kind: Resource, part: str, request: web.Request) -> web.StreamResponse:
        said = await self._passed_on(request, kind)
        return self._log(request, said) if part == "/log" else said

    def _log(self, request: web.Request, said: web.Response) -> web.Response:
        """What the container printed here; whether it may be read is the cluster's to say."""
        if said.status in {401, 403}:
            return said
        try:
            pod = self.store.get(PODS, request.match_info["namespace"], request.match_info["name"])
            has_begun = self.logs.has_begun(pod, request.query)
        except StatusError:
            return said
        if not has_begun:
            return said
        return web.Response(text=self.logs.read(pod, request.query), content_type="text/plain")

    async def _passed_on(self, request: web.Request, kind: Resource | None) -> web.Response:
        data = await self._body(request, kind)
        async with self._asked(request, data, aiohttp.ClientTimeout(total=30.0)) as said:
            return await self._as_said(said)

    async def _as_said(self, said: aiohttp.ClientResponse) -> web.Response:
        text = (await said.read()).decode().replace(self._real.real, "trellis")
        headers = {name: said.headers[name] for name in ("Retry-After",) if name in said.headers}
        return web.Response(text=text, status=said.status, content_type=said.content_type, headers=headers)

    async def _watch(self, request: web.Request, kind: Resource) -> web.StreamResponse:
        async with self._asked(request, None, _WATCH) as said:
            if said.status != 200:
                return await self._as_said(said)
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            response.enable_chunked_encoding()
            await response.prepare(request)
            cutting = asyncio.create_task(self.faults.cutting.wait())
            telling = asyncio.create_task(self._tell(said, response))
            try:
                await asyncio.wait({cutting, telling}, return_when=asyncio.FIRST_COMPLETED)
                if cutting.done() and not telling.done():
                    with suppress(ConnectionError):
                        await response.write(b'{"type":"MODIF')
                    cut(request)
            finally:
                for task in (cutting, telling):
                    task.cancel()
                await asyncio.gather(cutting, telling, return_exceptions=True)
            return response

    async def _tell(self, said: aiohttp.ClientResponse, response: web.StreamResponse) -> None:
        before: bytes | None = None
        rest = b""
        async for piece in said.content.iter_any():
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                told = line.replace(self._real.real.encode(), b"trellis") + b"\n"
                is_event = json.loads(line)["type"] in {"ADDED", "MODIFIED", "DELETED"}
                if is_event and self.faults.events_to_lose:
                    self.faults.events_to_lose -= 1
                    continue
                again = ([told, before or told, told]) if is_event and self.faults.events_come_twice else [told]
                before = told
                for one in again:
                    await response.write(one)

    async def _body(self, request: web.Request, kind: Resource | None) -> bytes | None:
        if not request.can_read_body:
            return None
        data = await request.read()
        try:
            body: Object = json.loads(data)
        except ValueError:
            return data
        if request.method == "POST" and kind == RAY_JOBS:
            body = self.store.before_create(kind, body)
        if isinstance(body.get("metadata"), dict) and "namespace" in body["metadata"]:
            body["metadata"]["namespace"] = self._real.place(body["metadata"]["namespace"])
        return json.dumps(body).encode()

    def _asked(self, request: web.Request, data: bytes | None, timeout: aiohttp.ClientTimeout) -> Any:
        path, namespace = request.path, request.match_info.get("namespace", "trellis")
        path = path.replace(f"/namespaces/{namespace}", f"/namespaces/{self._real.place(namespace)}", 1)
        headers = {name: request.headers[name] for name in ("Accept", "Content-Type") if name in request.headers}
        given = request.headers.get("authorization", "")
        is_known = given.lower() == f"bearer {TOKEN}" and not self.faults.token_expired
        is_admin = is_known and self.permissions is None and not self.token
        if is_admin:
            headers.update(self._real.credentials)
        else:
            token = self.token or self._tokens[frozenset(self.permissions or ())] if is_known else "of-nobody"
            headers["Authorization"] = f"Bearer {token}"
        assert self._session is not None
        return self._session.request(
            request.method,
            self._real.url + path,
            params=list(request.query.items()),
            data=data,
            headers=headers,
            timeout=timeout,
            ssl=self._trust[is_admin],
        )
