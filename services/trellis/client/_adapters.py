"""Adapters: what tuning makes."""

import os
from collections.abc import AsyncGenerator
from pathlib import Path

from google.protobuf.empty_pb2 import Empty

from trellis.client._adapter_files import check_folder, import_messages, receive
from trellis.client._blocking import Blocking, blocking, iterating
from trellis.client._caller import Caller
from trellis.client._convert import from_proto
from trellis.client._method import Method
from trellis.client._names import Names, base_model_name, tenant_name
from trellis.client._patience import Patience
from trellis.client.types import Adapter, AdapterShare, Deployment
from trellis.errors import TrellisError
from trellis.v1 import adapter_pb2 as pb

_GET = Method("AdapterService/GetAdapter", pb.GetAdapterRequest, pb.Adapter)
_LIST = Method("AdapterService/ListAdapters", pb.ListAdaptersRequest, pb.ListAdaptersResponse)
_IMPORT = Method("AdapterService/ImportAdapter", pb.ImportAdapterRequest, pb.Adapter)
_DELETE = Method("AdapterService/DeleteAdapter", pb.DeleteAdapterRequest, Empty)
_DEPLOY = Method("AdapterService/DeployAdapter", pb.DeployAdapterRequest, pb.Adapter)
_UNDEPLOY = Method("AdapterService/UndeployAdapter", pb.UndeployAdapterRequest, pb.Adapter)
_SHARE = Method("AdapterService/ShareAdapter", pb.ShareAdapterRequest, pb.AdapterShare)
_UNSHARE = Method("AdapterService/RevokeAdapterShare", pb.RevokeAdapterShareRequest, Empty)
_SHARES = Method("AdapterService/ListAdapterShares", pb.ListAdapterSharesRequest, pb.ListAdapterSharesResponse)
_SHARED = Method("AdapterService/ListSharedAdapters", pb.ListSharedAdaptersRequest, pb.ListSharedAdaptersResponse)


class AsyncAdapters:
    """What tuning makes: LoRA adapters, which never change."""

    def __init__(self, caller: Caller, names: Names) -> None:
        self._caller = caller
        self._names = names

    async def get(self, name: str) -> Adapter:
        """Read an adapter, with its manifest. Raises NotFound."""
        request = pb.GetAdapterRequest(name=self._whole(name))
        return from_proto(Adapter, await self._caller.unary(_GET, request))

    async def list(self, *, tenant: str | None = None, page_size: int = 0) -> AsyncGenerator[Adapter, None]:
        """A tenant's adapters, newest first, without manifests."""
        request = pb.ListAdaptersRequest(parent=self._names.parent(tenant), page_size=page_size)
        async for page in self._caller.pages(_LIST, request):
            for item in page.adapters:
                yield from_proto(Adapter, item)

    async def import_(
        self,
        folder: str | os.PathLike[str],
        *,
        base_model: str,
        display_name: str = "",
        tenant: str | None = None,
    ) -> Adapter:
        """Import a folder in PEFT format; the same files again give the same adapter.

        Raises InvalidArgument (ADAPTER_INVALID) for pickle, wrong shapes, NaN or all zeros; FailedPrecondition for an
        unknown base.
        """
        path = Path(folder)
        check_folder(path)
        header = pb.ImportAdapterRequest.Header(
            parent=self._names.parent(tenant), base_model=base_model_name(base_model), display_name=display_name
        )
        patience = Patience(self._caller)
        while True:
            try:
                answer = await self._caller.transport.upload(_IMPORT, import_messages(header, path), None)
                return from_proto(Adapter, answer)
            except TrellisError as error:
                await patience.after(error)

    async def download(self, name: str, folder: str | os.PathLike[str]) -> tuple[Path, ...]:
        """Write an adapter's files into a folder, which is made if missing; returns their paths.

        Raises NotFound, DataLoss, OSError.
        """
        patience = Patience(self._caller)
        while True:
            try:
                return await receive(self._caller, self._whole(name), Path(folder))
            except TrellisError as error:
                await patience.after(error)

    async def delete(self, name: str, *, etag: str = "") -> None:
        """Delete an adapter. Raises NotFound, FailedPrecondition while it is deployed or has an alias, Aborted."""
        await self._caller.delete(_DELETE, pb.DeleteAdapterRequest(name=self._whole(name), etag=etag))

    async def deploy(self, name: str, *, wait: bool = True, timeout: float | None = 300.0) -> Adapter:
        """Make an adapter callable; with `wait` it returns when it is, or when the engine could not be started.

        Raises NotFound, DeadlineExceeded after `timeout` seconds.
        """
        request = pb.DeployAdapterRequest(name=self._whole(name))
        adapter = from_proto(Adapter, await self._caller.unary(_DEPLOY, request))
        if not wait or adapter.deployment is not Deployment.DEPLOYING:
            return adapter
        return await self._caller.poll(
            lambda: self.get(name),
            lambda found: found.deployment is not Deployment.DEPLOYING,
            timeout,
            f"{name} was not deployed in time.",
        )

    async def undeploy(self, name: str) -> Adapter:
        """Make an adapter no longer callable. Raises NotFound."""
        request = pb.UndeployAdapterRequest(name=self._whole(name))
        return from_proto(Adapter, await self._caller.unary(_UNDEPLOY, request))

    async def share(self, name: str, tenant: str) -> AdapterShare:
        """Let another tenant call an adapter, and see it without its manifest; sharing again renews the time.

        Its calls are metered and limited as its own. Whether there is such a tenant is not said. Raises NotFound,
        InvalidArgument.
        """
        request = pb.ShareAdapterRequest(name=self._whole(name), tenant=tenant_name(tenant))
        return from_proto(AdapterShare, await self._caller.unary(_SHARE, request))

    async def unshare(self, name: str, tenant: str) -> None:
        """End a share, from the other tenant's next call on; again changes nothing. Raises NotFound."""
        request = pb.RevokeAdapterShareRequest(name=self._whole(name), tenant=tenant_name(tenant))
        await self._caller.unary(_UNSHARE, request)

    async def shares(self, name: str, *, page_size: int = 0) -> AsyncGenerator[AdapterShare, None]:
        """With whom an adapter is shared, oldest first. Raises NotFound."""
        request = pb.ListAdapterSharesRequest(parent=self._whole(name), page_size=page_size)
        async for page in self._caller.pages(_SHARES, request):
            for item in page.shares:
                yield from_proto(AdapterShare, item)

    async def shared(self, *, tenant: str | None = None, page_size: int = 0) -> AsyncGenerator[Adapter, None]:
        """The adapters of others that a tenant may call by their full names, oldest share first."""
        request = pb.ListSharedAdaptersRequest(parent=self._names.parent(tenant), page_size=page_size)
        async for page in self._caller.pages(_SHARED, request):
            for item in page.adapters:
                yield from_proto(Adapter, item)

    def _whole(self, name: str) -> str:
        return self._names.of("adapters", name)


class Adapters(Blocking[AsyncAdapters]):
    """What tuning makes: LoRA adapters, which never change."""

    get = blocking(AsyncAdapters.get)
    list = iterating(AsyncAdapters.list)
    import_ = blocking(AsyncAdapters.import_)
    download = blocking(AsyncAdapters.download)
    delete = blocking(AsyncAdapters.delete)
    deploy = blocking(AsyncAdapters.deploy)
    undeploy = blocking(AsyncAdapters.undeploy)
    share = blocking(AsyncAdapters.share)
    unshare = blocking(AsyncAdapters.unshare)
    shares = iterating(AsyncAdapters.shares)
    shared = iterating(AsyncAdapters.shared)
