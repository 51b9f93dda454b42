"""A call in its trace, as a replica sees it: its wait, the reading of its prompt, its answer."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from trellis.engine import FinishReason, Output
from trellis.serving.metrics import Observer
from trellis.tracing import NOTHING, Kind, Span, begin

_ENDS: Final = frozenset(FinishReason)
"""Outcomes that are no failure."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class RequestSpans:
    """`Observer` that makes spans of what it sees, under the place in a trace that the caller sent.

    The parts are told with their times when they are known: what passes by here are pieces of answers.
    """

    def __init__(self, traceparent: str, base_model: str, now: Callable[[], datetime] = _utc_now) -> None:
        self._now = now
        self._start = now()
        self._first: datetime | None = None
        self._queued: timedelta | None = None
        self._last: Output | None = None
        values = {"gen_ai.request.model": base_model}
        self._whole: Span = NOTHING
        if traceparent:
            kind = Kind.SERVER
            self._whole = begin("engine.generate", kind, parent=traceparent, values=values, start=self._start)

    def begin(self, tenant: str) -> None:
        """The request is this tenant's."""
        self._whole.set("trellis.tenant", tenant)

    def see(self, output: Output) -> None:
        """One piece of the answer."""
        self._last = output
        if output.token_ids and self._first is None:
            self._first = self._now()
            self._whole.event("first_token", {})
        if output.queued_seconds is not None and self._queued is None:
            self._queued = timedelta(seconds=output.queued_seconds)

    def end(self, outcome: str) -> None:
        """The request ended: a finish reason, or an error's reason."""
        whole, now = self._whole, self._now()
        if whole is NOTHING:
            return
        if self._last is not None:
            whole.set("gen_ai.usage.input_tokens", self._last.prompt_tokens)
            whole.set("gen_ai.usage.output_tokens", self._last.completion_tokens)
            whole.set("trellis.cached_prompt_tokens", self._last.cached_prompt_tokens)
        if outcome not in _ENDS:
            whole.fail(outcome)
        whole.set("trellis.outcome", outcome)
        self._tell_of_parts(now)
        whole.end(now)

    def _tell_of_parts(self, now: datetime) -> None:
        at = self._start
        if self._queued is not None:
            at = self._part("engine.queue", at, at + self._queued)
        if self._first is not None:
            at = self._part("engine.prefill", at, self._first)
            self._part("engine.decode", at, now)

    def _part(self, name: str, start: datetime, end: datetime) -> datetime:
        end = max(start, end)
        begin(name, parent=self._whole.traceparent, start=start).end(end)
        return end


class Both:
    """Two observers of one request."""

    def __init__(self, first: Observer, second: Observer) -> None:
        self._observers = (first, second)

    def begin(self, tenant: str) -> None:
        """The request is this tenant's."""
        for observer in self._observers:
            observer.begin(tenant)

    def see(self, output: Output) -> None:
        """One piece of the answer."""
        for observer in self._observers:
            observer.see(output)

    def end(self, outcome: str) -> None:
        """The request ended."""
        for observer in self._observers:
            observer.end(outcome)
