"""Kubernetes' API, as little of it as is needed, in one namespace."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException

from trellis.errors import Unavailable
from trellis.server.clusters.kuberay.connection import Connect, in_cluster_or_kubeconfig
from trellis.server.clusters.kuberay.refusals import Answer, Gone, Refused, answer, failure, unreachable
from trellis.server.clusters.kuberay.resources import PODS, Object, Resource

_TIMEOUT: Final = aiohttp.ClientTimeout(total=10.0, connect=5.0)
"""Shorter than the claim on what is started: an object must not be made by one who has lost it."""
_SILENCE_SECONDS: Final = 90.0
"""Kubernetes says at least each minute how far a watch is."""
_PAGE: Final = 500
_PATIENCE_SECONDS: Final = 3.0
_TRIES: Final = 3
_MANAGER: Final = "trellis"
_MERGE: Final = "application/merge-patch+json"
_APPLY: Final = "application/apply-patch+yaml"

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Listing:
    """Objects as they were at one moment."""

    items: tuple[Object, ...]
    resource_version: str


@dataclass(frozen=True, slots=True)
class Change:
    """One event of a watch: ADDED, MODIFIED, DELETED or BOOKMARK."""

    kind: str
    object: Object


class KubeApi:
    """Calls raise Unavailable where nothing is answered or the answer is a server's fault, and Refused for a bad object.

    Reads are tried again for a moment. Writes are not: who writes looks first whether it is still to be done.
    """

    def __init__(
        self, namespace: str, connect: Connect = in_cluster_or_kubeconfig, *, sleep: Sleep = asyncio.sleep
    ) -> None:
        self.namespace = namespace
        self._connect = connect
        self._sleep = sleep
        self._client: ApiClient | None = None
        self._connecting = asyncio.Lock()

    async def close(self) -> None:
        """Closes the connections."""
        if self._client is not None:
            await self._client.close()  # type: ignore[no-untyped-call]
            self._client = None

    async def create(self, resource: Resource, body: Mapping[str, Any]) -> Object | None:
        """What was made; None if one of that name is there already."""
        said = await self._call("POST", resource.path(self.namespace), body=body)
        if said.status == 409 and _reason(said) == "AlreadyExists":
            return None
        return self._object(said, "create", resource)

    async def get(self, resource: Resource, name: str) -> Object | None:
        """The object as it is now; None if there is none."""
        said = await self._read(resource.path(self.namespace, name), {})
        if said.status == 404 and said.names_an_object:
            return None
        return self._object(said, "get", resource)

    async def list(self, resource: Resource, selector: str = "", fields: str = "") -> Listing:
        """All objects that have the labels and fields, as they are now."""
        items: list[Object] = []
        query = {"labelSelector": selector, "fieldSelector": fields, "limit": str(_PAGE)}
        while True:
            said = await self._read(resource.path(self.namespace), query)
            if said.status == 410 and "continue" in query:  # the pages have grown too old
                items.clear()
                del query["continue"], query["limit"]
                continue
            page = self._object(said, "list", resource)
            # The objects of a list do not say what they are.
            named = {"apiVersion": resource.api_version, "kind": resource.kind}
            items.extend({**named, **item} for item in page.get("items") or [])
            follows = page["metadata"].get("continue", "")
            if not follows:
                return Listing(tuple(items), str(page["metadata"]["resourceVersion"]))
            query["continue"] = follows

    async def watch(
        self, resource: Resource, resource_version: str, seconds: float, selector: str = "", fields: str = ""
    ) -> AsyncIterator[Change]:
        """What happens after that version, until the seconds are over. Raises Gone, and Unavailable if it is cut off."""
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(max(1, int(seconds))),
            "labelSelector": selector,
            "fieldSelector": fields,
        }
        timeout = aiohttp.ClientTimeout(total=None, connect=5.0, sock_read=_SILENCE_SECONDS)
        async with await self._open("GET", resource.path(self.namespace), query, timeout=timeout) as response:
            if response.status == 410:
                raise Gone
            if response.status != 200:
                raise failure(await _answer(response), "watch", resource, self.namespace)
            yield Change("OPENED", {})
            async for line in self._lines(response):
                yield _change(line, resource, self.namespace)

    async def patch(self, resource: Resource, name: str, body: Mapping[str, Any]) -> Object | None:
        """Merge this into the object; None if there is none."""
        said = await self._call("PATCH", resource.path(self.namespace, name), body=body, content=_MERGE)
        if said.status == 404 and said.names_an_object:
            return None
        return self._object(said, "patch", resource)

    async def apply(self, resource: Resource, body: Mapping[str, Any]) -> Object:
        """Make the object be as it is written here, made or changed; what others have set besides stays."""
        query = {"fieldManager": _MANAGER, "force": "true"}
        path = resource.path(self.namespace, str(body["metadata"]["name"]))
        return self._object(await self._call("PATCH", path, query, body=body, content=_APPLY), "patch", resource)

    async def delete(self, resource: Resource, name: str, uid: str, resource_version: str = "") -> bool:
        """Delete just this object, as long as it is as it was read; False if it is another, or has changed."""
        preconditions = {"uid": uid, **({"resourceVersion": resource_version} if resource_version else {})}
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": preconditions,
            "propagationPolicy": "Background",
        }
        said = await self._call("DELETE", resource.path(self.namespace, name), body=body)
        if said.status == 404 and said.names_an_object:
            return True
        if said.status == 409:
            return False
        self._object(said, "delete", resource)
        return True

    async def log_tail(self, pod: str, container: str, max_bytes: int) -> str:
        """The end of what the container printed; empty if it has not begun, or is no more."""
        query = {"container": container, "tailLines": str(max(1000, max_bytes // 16))}
        async with await self._open("GET", PODS.path(self.namespace, pod) + "/log", query) as response:
            if response.status in {204, 400, 404}:  # it has no node, it waits to start, or it is gone
                return ""
            if response.status != 200:
                raise failure(await _answer(response), "get", PODS, self.namespace, "/log")
            kept = b""
            try:
                async for piece in response.content.iter_any():
                    kept = (kept + piece)[-max_bytes - 1 :]
            except (aiohttp.ClientError, OSError) as error:
                raise unreachable(self._host, error) from error
            return kept.decode(errors="replace")

    @property
    def _host(self) -> str:
        return str(self._client.configuration.host) if self._client is not None else "its address"

    async def _read(self, path: str, query: dict[str, str]) -> Answer:
        for again in range(_TRIES - 1, -1, -1):
            try:
                said = await self._call("GET", path, query)
            except Unavailable:
                if not again:
                    raise
                await self._sleep(0.2)
                continue
            wait = said.retry_after or 0.2
            if not again or wait > _PATIENCE_SECONDS or not (said.status == 429 or said.status >= 500):
                return said
            await self._sleep(wait)
        raise AssertionError("the last try is answered or raises")

    async def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
    ) -> Answer:
        async with await self._open(method, path, query or {}, body=body, content=content) as response:
            try:
                return await _answer(response)
            except (aiohttp.ClientError, OSError) as error:
                raise unreachable(self._host, error) from error

    async def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        *,
        body: Mapping[str, Any] | None = None,
        content: str = "application/json",
        timeout: aiohttp.ClientTimeout = _TIMEOUT,
    ) -> aiohttp.ClientResponse:
        client = await self._connected()
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = content
        try:
            asked = await client.param_serialize(
                method,
                path,
                query_params=[(name, value) for name, value in query.items() if value],
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
        except (ConfigException, OSError) as error:  # the token is read from time to time
            raise unreachable(self._host, error) from error
        try:
            response = await client.call_api(*asked, _request_timeout=timeout)
        except (aiohttp.ClientError, OSError) as error:  # asyncio's TimeoutError is an OSError too
            raise unreachable(self._host, error) from error
        found: aiohttp.ClientResponse = response.response
        return found

    async def _connected(self) -> ApiClient:
        async with self._connecting:
            if self._client is None:
                configuration: Configuration = await self._connect()
                self._client = ApiClient(configuration)
            return self._client

    async def _lines(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        rest = b""
        try:
            async for piece in response.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield line
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(self._host, error) from error

    def _object(self, said: Answer, verb: str, resource: Resource) -> Object:
        if not said.ok or not isinstance(said.body, dict):
            raise failure(said, verb, resource, self.namespace)
        return said.body


async def _answer(response: aiohttp.ClientResponse) -> Answer:
    return answer(response.status, (await response.read()).decode(errors="replace"), response.headers)


def _change(line: bytes, resource: Resource, namespace: str) -> Change:
    event = json.loads(line)
    kind, found = str(event["type"]), event["object"]
    if kind != "ERROR":
        return Change(kind, found)
    status = int(found.get("code", 500))
    if status == 410:
        raise Gone
    raise failure(Answer(status, found, {}), "watch", resource, namespace)


def _reason(said: Answer) -> str:
    return str(said.body.get("reason", "")) if isinstance(said.body, dict) else ""


__all__ = ["Change", "Gone", "KubeApi", "Listing", "Refused"]
