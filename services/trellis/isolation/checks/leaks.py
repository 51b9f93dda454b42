"""What one tenant can read that is made for it, and what everybody can read: nothing of the other is in it."""

import functools
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from trellis.access_table import CallerKind, Named, Outcome, methods
from trellis.isolation.requests import name_for, request_for
from trellis.isolation.stage import Party, Stage
from trellis.isolation.verdict import SkippedError, Verdict
from trellis.v1 import access_pb2

_SECONDS: Final = 5.0
_Check = tuple[str, str, Callable[[Stage, Verdict], None]]


def _reads(stage: Stage, verdict: Verdict) -> None:
    for mine, theirs in ((stage.intruder, stage.owner), (stage.owner, stage.intruder)):
        for method in methods():
            named = Named.OWN if method.access.tenant_field else Named.NOTHING
            reads = method.access.scope == access_pb2.SCOPE_READ
            if not reads or method.expected(CallerKind.TENANT_ADMIN, named) is not Outcome.LET_IN:
                continue
            answer = stage.wire.call(method, mine.key, request_for(method, name_for(method, mine.tenant, mine.ids)))
            found = _found(theirs, answer.body + answer.message.encode())
            verdict.expect(not found, f"{method.path} as {mine.tenant} says {', '.join(found)} of {theirs.tenant}")


def _metrics(urls: Sequence[str], stage: Stage, verdict: Verdict) -> None:
    if not urls:
        raise SkippedError("No address of metrics was given (--metrics-url).")
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise SkippedError(f"{url} is no address of HTTP.")
        with urllib.request.urlopen(url, timeout=_SECONDS) as answer:  # noqa: S310 - checked above
            body = answer.read()
        verdict.expect(len(body) > 0, f"{url} says nothing, so that nothing was looked for.")
        for party in (stage.owner, stage.intruder):
            found = [what for what in _found(party, body) if what != "its name"]
            verdict.expect(not found, f"{url} says {', '.join(found)} of {party.tenant}")
            ids = [
                value
                for name, value in party.ids.items()
                if name in {"tuning_job", "adapter"} and value.encode() in body
            ]
            verdict.expect(not ids, f"{url} has {', '.join(ids)} of {party.tenant} in a label")


def _found(party: Party, body: bytes) -> list[str]:
    names: Mapping[str, str] = party.names()
    return [what for what, value in names.items() if value.encode() in body]


def checks(metrics_urls: Sequence[str]) -> Sequence[_Check]:
    """With the addresses of metrics."""
    return (
        (
            "leaks.reads",
            "Nothing that a tenant can read of itself, logs and events too, says anything of the other",
            _reads,
        ),
        (
            "leaks.metrics",
            "Metrics hold no key, no data and no names of things",
            functools.partial(_metrics, metrics_urls),
        ),
    )
