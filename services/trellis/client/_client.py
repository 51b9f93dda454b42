"""The clients."""

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from trellis.client import _generate
from trellis.client._adapters import Adapters, AsyncAdapters
from trellis.client._aliases import Aliases, AsyncAliases
from trellis.client._api_keys import ApiKeys, AsyncApiKeys
from trellis.client._async_transport import AsyncTransport
from trellis.client._audit import AsyncAudit, Audit
from trellis.client._base_models import AsyncBaseModels, BaseModels
from trellis.client._blocking import Blocking, blocking, iterating, run
from trellis.client._blocking_transport import BlockingTransport
from trellis.client._caller import Caller
from trellis.client._datasets import AsyncDatasets, Datasets
from trellis.client._exports import AsyncExports, Exports
from trellis.client._jobs import AsyncJobs, Jobs
from trellis.client._names import Names
from trellis.client._retry import Retry
from trellis.client._tenants import AsyncTenants, Tenants
from trellis.client._trainers import AsyncTrainers, Trainers
from trellis.client._transport import Target, Transport
from trellis.client._usage import AsyncUsage, Usage
from trellis.client.settings import Key, Settings, resolve
from trellis.client.types import Generation, GenerationChunk
from trellis.errors import InvalidArgument

DEFAULT_TIMEOUT = 60.0


class ClientCore:
    """What both clients are: nouns over a caller, and the call of a model."""

    def __init__(self, settings: Settings, caller: Caller) -> None:
        self.settings = settings
        self.caller = caller
        self.names = Names(settings.tenant)

    @property
    def server_version(self) -> str:
        """The server's version, as it said in its last answer; empty before the first one, or of an older server."""
        return self.caller.transport.server_version

    async def generate(
        self,
        model: str,
        messages: _generate.Messages | None = None,
        *,
        prompt: str | None = None,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        seed: int | None = None,
        max_tokens: int = 0,
        stop: Sequence[str] = (),
        logprobs: int | None = None,
        n: int = 1,
        json_schema: str | Mapping[str, Any] | None = None,
        json_object: bool = False,
        timeout: float | None = None,
    ) -> Generation:
        """Ask an adapter, an alias or a base model, and return the whole answers; all as for `generate_stream`."""
        return await _generate.joined(
            self.generate_stream(
                model,
                messages,
                prompt=prompt,
                system=system,
                tools=tools,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                min_p=min_p,
                repetition_penalty=repetition_penalty,
                presence_penalty=presence_penalty,
                frequency_penalty=frequency_penalty,
                seed=seed,
                max_tokens=max_tokens,
                stop=stop,
                logprobs=logprobs,
                n=n,
                json_schema=json_schema,
                json_object=json_object,
                timeout=timeout,
            )
        )

    async def generate_stream(
        self,
        model: str,
        messages: _generate.Messages | None = None,
        *,
        prompt: str | None = None,
        system: str | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        seed: int | None = None,
        max_tokens: int = 0,
        stop: Sequence[str] = (),
        logprobs: int | None = None,
        n: int = 1,
        json_schema: str | Mapping[str, Any] | None = None,
        json_object: bool = False,
        timeout: float | None = None,
    ) -> AsyncGenerator[GenerationChunk, None]:
        """Ask an adapter, an alias or a base model, and get the answer as it is made; closing the iterator cancels it.

        A short `model` is one of the tenant's aliases, or an adapter when it is one's id; a base model is
        `baseModels/…`. `messages` is what the user says, or a conversation; `prompt` instead is plain text that is
        continued as it is. What is None or 0 gets the platform's default: temperature 1 (0 is greedy), top_p 1, top_k
        all, min_p 0, no penalties, max_tokens 256. `logprobs` asks for each token's log probability and so many
        alternatives; `n` for so many answers, whose pieces come mixed, each with its `index`. With `json_schema` (as
        text or as a dict) the answer is JSON that the schema describes, with `json_object` any JSON object, unless
        max_tokens ends it earlier. `timeout` is in seconds, none when None. Raises NotFound, FailedPrecondition (ADAPTER_NOT_DEPLOYED), InvalidArgument
        (CONTEXT_EXCEEDED), ResourceExhausted (ENGINE_BUSY), Unavailable.
        """
        if isinstance(stop, str):
            raise InvalidArgument.for_field("stop", "`stop` must be a list of strings.")
        request = _generate.request_of(self.names.model(model), messages, prompt, system, tools)
        sampling = {
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "seed": seed,
            "min_p": min_p,
            "repetition_penalty": repetition_penalty,
            "presence_penalty": presence_penalty,
            "frequency_penalty": frequency_penalty,
        }
        for field, value in sampling.items():
            if value is not None:
                setattr(request.sampling, field, value)
        request.max_tokens = max_tokens
        request.stop.extend(stop)
        if logprobs is not None:
            request.logprobs = logprobs
        request.n = n
        wanted = _generate.response_format(json_schema, json_object)
        if wanted is not None:
            request.response_format.CopyFrom(wanted)
        async for chunk in _generate.chunks(self.caller, request, timeout):
            yield chunk

    async def close(self) -> None:
        """End all calls and let the connection go."""
        await self.caller.transport.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(endpoint={self.settings.endpoint!r}, tenant={self.settings.tenant!r})"


class AsyncClient(ClientCore):
    """A connection to a Trellis server, for asyncio.

    The parameters are those of `Client`. It opens its connection with its first call, and belongs to that event loop.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        api_key: Key | None = None,
        *,
        profile: str | None = None,
        tenant: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        tls: bool | str | os.PathLike[str] | None = None,
        certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        retry: Retry | None = None,
    ) -> None:
        settings = resolve(endpoint, api_key, profile=profile, tenant=tenant, tls=tls, certificate=certificate)
        transport = AsyncTransport(Target.of(settings))
        self._start(settings, Caller(transport, timeout, retry or Retry()))

    @classmethod
    def over(cls, settings: Settings, caller: Caller) -> Self:
        """A client that makes its calls in another way, such as with a clock of one's own."""
        client = cls.__new__(cls)
        client._start(settings, caller)  # noqa: SLF001 - another way to construct it
        return client

    def _start(self, settings: Settings, caller: Caller) -> None:
        super().__init__(settings, caller)
        self.tenants = AsyncTenants(caller, self.names)
        self.api_keys = AsyncApiKeys(caller, self.names)
        self.base_models = AsyncBaseModels(caller, self.names)
        self.datasets = AsyncDatasets(caller, self.names)
        self.jobs = AsyncJobs(caller, self.names)
        self.adapters = AsyncAdapters(caller, self.names)
        self.aliases = AsyncAliases(caller, self.names)
        self.exports = AsyncExports(caller, self.names)
        self.trainers = AsyncTrainers(caller, self.names)
        self.audit = AsyncAudit(caller, self.names)
        self.usage = AsyncUsage(caller, self.names)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class Client(Blocking[AsyncClient]):
    """A connection to a Trellis server.

    Each setting comes from its argument, else from the environment (TRELLIS_ENDPOINT, TRELLIS_API_KEY, TRELLIS_TENANT),
    else from the profile (`profile`, TRELLIS_PROFILE, or the file's current one; `~/.config/trellis/config.toml`), else
    the endpoint is localhost:50051. With a `tenant`, names may be short: `support` for `tenants/acme/datasets/support`.

    `https://host` and every host that is not this machine are spoken to with TLS; `http://host:port` says plainly that a
    network is trusted, and the key then travels in clear text. `tls` overrules it: True, False, or a file of certificates
    to trust (TRELLIS_CA_FILE). `certificate` has the files of the client's own certificate and its key, for servers that
    ask for one (TRELLIS_CERTIFICATE_FILE and TRELLIS_CERTIFICATE_KEY_FILE). `api_key` may be a function, too, which is asked for the
    key of each call and must be quick: for tokens of an identity provider, which are renewed from time to time. `timeout` is in seconds and holds for a call with all its retries; calls that stream have none of their own.

    `http://10.0.0.1:50051,10.0.0.2:50051` names several servers by their IP addresses: calls are spread over those that are there.

    Threads may share a client. A process that is forked makes a client of its own, for gRPC's connections do not survive
    a fork. Raises InvalidArgument or ProfileError for wrong settings; the connection is opened by the first call.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        api_key: Key | None = None,
        *,
        profile: str | None = None,
        tenant: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        tls: bool | str | os.PathLike[str] | None = None,
        certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
        retry: Retry | None = None,
    ) -> None:
        settings = resolve(endpoint, api_key, profile=profile, tenant=tenant, tls=tls, certificate=certificate)
        transport: Transport = BlockingTransport(Target.of(settings))
        self._start(settings, Caller(transport, timeout, retry or Retry()))

    @classmethod
    def over(cls, settings: Settings, caller: Caller) -> Self:
        """A client that makes its calls in another way; the caller's transport must block."""
        client = cls.__new__(cls)
        client._start(settings, caller)  # noqa: SLF001 - another way to construct it
        return client

    def _start(self, settings: Settings, caller: Caller) -> None:
        inner = AsyncClient.over(settings, caller)
        super().__init__(inner)
        self.settings = settings
        self.tenants = Tenants(inner.tenants)
        self.api_keys = ApiKeys(inner.api_keys)
        self.base_models = BaseModels(inner.base_models)
        self.datasets = Datasets(inner.datasets)
        self.jobs = Jobs(inner.jobs)
        self.adapters = Adapters(inner.adapters)
        self.aliases = Aliases(inner.aliases)
        self.exports = Exports(inner.exports)
        self.trainers = Trainers(inner.trainers)
        self.audit = Audit(inner.audit)
        self.usage = Usage(inner.usage)

    generate = blocking(AsyncClient.generate)
    generate_stream = iterating(AsyncClient.generate_stream)

    @property
    def server_version(self) -> str:
        """The server's version, as it said in its last answer; empty before the first one, or of an older server."""
        return self._inner.server_version

    def close(self) -> None:
        """End all calls and let the connection go."""
        run(self._inner.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client(endpoint={self.settings.endpoint!r}, tenant={self.settings.tenant!r})"
