"""Adapters, aliases and answers in memory."""

import hashlib
import threading
from collections.abc import Iterator
from typing import Any

from google.protobuf.empty_pb2 import Empty

from tests.fake_server.accounts import found
from tests.fake_server.faults import abort
from tests.fake_server.pages import page_of
from trellis.errors import Unavailable
from trellis.v1 import adapter_pb2 as pb, inference_pb2
from trellis.v1.adapter_pb2_grpc import AdapterServiceServicer
from trellis.v1.inference_pb2_grpc import InferenceServiceServicer


class Adapters(AdapterServiceServicer):
    def __init__(self) -> None:
        self.adapters: dict[str, pb.Adapter] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.aliases: dict[str, pb.Alias] = {}
        self.shares: dict[tuple[str, str], pb.AdapterShare] = {}
        self.polls_until_deployed = 1
        self.spoiled = False
        """Whether downloads bring other bytes than they announce."""
        self.extra_file = ""
        self.cut_downloads = 0

    def GetAdapter(self, request: Any, context: Any) -> Any:
        adapter = found(self.adapters, request.name, context)
        if adapter.deployment == pb.Adapter.DEPLOYMENT_DEPLOYING:
            self.polls_until_deployed -= 1
            if self.polls_until_deployed < 0:
                adapter.deployment = pb.Adapter.DEPLOYMENT_DEPLOYED
        return adapter

    def ListAdapters(self, request: Any, context: Any) -> Any:
        mine = [a for a in self.adapters.values() if a.name.startswith(request.parent + "/")]
        adapters, token = page_of(mine, request)
        return pb.ListAdaptersResponse(adapters=adapters, next_page_token=token)

    def ImportAdapter(self, request_iterator: Iterator[Any], context: Any) -> Any:
        header = next(request_iterator).header
        files: dict[str, bytes] = {}
        name = ""
        for message in request_iterator:
            if message.HasField("file"):
                name = message.file.filename
                files[name] = b""
            else:
                files[name] += message.chunk
        digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()
        adapter = pb.Adapter(
            name=f"{header.parent}/adapters/{digest[:24]}",
            digest=digest,
            base_model=header.base_model,
            display_name=header.display_name,
            rank=4,
            target_modules=["q_proj"],
            deployment=pb.Adapter.DEPLOYMENT_UNDEPLOYED,
        )
        adapter.manifest.update({"rank": 4, "files": ["a"]})
        self.adapters[adapter.name], self.files[adapter.name] = adapter, files
        return adapter

    def DownloadAdapter(self, request: Any, context: Any) -> Iterator[Any]:
        files = self.files[found(self.adapters, request.name, context).name]
        for filename, data in {**files, **({self.extra_file: b""} if self.extra_file else {})}.items():
            sha256 = hashlib.sha256(data + (b"!" if self.spoiled else b"")).hexdigest()
            file = pb.DownloadAdapterResponse.FileHeader(filename=filename, size_bytes=len(data), sha256=sha256)
            yield pb.DownloadAdapterResponse(file=file)
            yield pb.DownloadAdapterResponse(chunk=data)
            if self.cut_downloads:
                self.cut_downloads -= 1
                abort(context, Unavailable("SERVER_STOPPING", "The server is stopping."))

    def DeleteAdapter(self, request: Any, context: Any) -> Any:
        del self.adapters[found(self.adapters, request.name, context).name]
        return Empty()

    def DeployAdapter(self, request: Any, context: Any) -> Any:
        adapter = found(self.adapters, request.name, context)
        adapter.deployment = pb.Adapter.DEPLOYMENT_DEPLOYING
        return adapter

    def UndeployAdapter(self, request: Any, context: Any) -> Any:
        adapter = found(self.adapters, request.name, context)
        adapter.deployment = pb.Adapter.DEPLOYMENT_UNDEPLOYED
        return adapter

    def SetAlias(self, request: Any, context: Any) -> Any:
        found(self.adapters, request.alias.adapter, context)
        self.aliases[request.alias.name] = request.alias
        return request.alias

    def GetAlias(self, request: Any, context: Any) -> Any:
        return found(self.aliases, request.name, context)

    def ListAliases(self, request: Any, context: Any) -> Any:
        aliases, token = page_of([a for a in self.aliases.values() if a.name.startswith(request.parent)], request)
        return pb.ListAliasesResponse(aliases=aliases, next_page_token=token)

    def DeleteAlias(self, request: Any, context: Any) -> Any:
        del self.aliases[found(self.aliases, request.name, context).name]
        return Empty()

    def ShareAdapter(self, request: Any, context: Any) -> Any:
        name = found(self.adapters, request.name, context).name
        share = pb.AdapterShare(adapter=name, tenant=request.tenant)
        self.shares[name, request.tenant] = share
        return share

    def RevokeAdapterShare(self, request: Any, context: Any) -> Any:
        self.shares.pop((found(self.adapters, request.name, context).name, request.tenant), None)
        return Empty()

    def ListAdapterShares(self, request: Any, context: Any) -> Any:
        name = found(self.adapters, request.parent, context).name
        shares, token = page_of([share for share in self.shares.values() if share.adapter == name], request)
        return pb.ListAdapterSharesResponse(shares=shares, next_page_token=token)

    def ListSharedAdapters(self, request: Any, context: Any) -> Any:
        names = [share.adapter for share in self.shares.values() if share.tenant == request.parent]
        adapters, token = page_of([self.adapters[name] for name in names], request)
        return pb.ListSharedAdaptersResponse(adapters=adapters, next_page_token=token)


class Inference(InferenceServiceServicer):
    """Answers with the words of what was asked."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.endless = False
        self.gone = threading.Event()
        """Set when a caller of an endless answer has gone."""

    def Generate(self, request: Any, context: Any) -> Iterator[Any]:
        self.requests.append(request)
        text = request.prompt or " ".join(message.content for message in request.chat.messages)
        if self.endless:
            context.add_callback(self.gone.set)
            while not self.gone.is_set():
                yield inference_pb2.GenerateResponse(text="more ", token_ids=[1])
            return
        indexes = range(request.n or 1)
        for number, word in enumerate(text.split()):
            for index in indexes:
                piece = inference_pb2.GenerateResponse(text=f"{word} ", token_ids=[number], index=index)
                piece.adapter_digest = "d" * 64
                if request.HasField("logprobs"):
                    token = inference_pb2.TokenLogprob(token_id=number, text=word, logprob=-0.5)
                    token.alternatives.add(token_id=9, text="other", logprob=-2.0)
                    piece.logprobs.append(token)
                yield piece
        for index in reversed(indexes):
            last = inference_pb2.GenerateResponse(finish_reason=inference_pb2.FINISH_REASON_STOP, index=index)
            if index == 0:
                last.usage.prompt_tokens = 3
                last.usage.completion_tokens = len(text.split()) * len(indexes)
            yield last
