"""What Kubernetes answers when it does not do what it was asked, in our words."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from trellis.errors import Reason, Unavailable
from trellis.server.clusters.kuberay.resources import Resource

_SECONDS: Final = 2.0
_LONG_SECONDS: Final = 30.0
"""Where somebody has to do something first."""


class Refused(Unavailable):
    """Kubernetes does not take an object as it is written; `str()` says why. Asking again does not help."""


class Conflict(Unavailable):
    """Somebody has changed the object since it was read, if only its status: read it again."""


class Unreachable(Unavailable):
    """Nothing was answered, or not all of it."""


class Gone(Exception):
    """A watch can't go on from where it was: all must be listed again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of the API."""

    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether it was done."""
        return 200 <= self.status < 300

    @property
    def message(self) -> str:
        """The sentence of an answer that says no."""
        if isinstance(self.body, dict) and self.body.get("message"):
            return str(self.body["message"])
        return str(self.body).strip()[:300] or "no more is known"

    @property
    def names_an_object(self) -> bool:
        """Whether a 404 is of the object, not of its kind or its namespace."""
        details = self.body.get("details") if isinstance(self.body, dict) else None
        return isinstance(details, dict) and bool(details.get("name")) and details.get("kind") != "namespaces"

    @property
    def retry_after(self) -> float | None:
        """The seconds that the server asks to wait."""
        try:
            return float(self.headers.get("Retry-After", ""))
        except ValueError:
            return None


def answer(status: int, text: str, headers: Mapping[str, str]) -> Answer:
    """Read one; what is no JSON is kept as text."""
    try:
        return Answer(status, json.loads(text), headers)
    except ValueError:
        return Answer(status, text, headers)


def failure(said: Answer, verb: str, resource: Resource, namespace: str, part: str = "") -> Unavailable:
    """What to raise for an answer that was not hoped for."""
    what = resource.plural + part
    group = f" of {resource.group}" if resource.group else ""
    if said.status == 401:
        message = "Kubernetes does not accept the server's credentials: its token has expired, or is another cluster's."
        return _unavailable(f"{message} Kubernetes says: {said.message}", _LONG_SECONDS)
    # Of an apply that may not create, no reason follows.
    is_not_allowed = "is forbidden: User" in said.message or said.message.rstrip().endswith("is forbidden:")
    if said.status == 403 and "exceeded quota" not in said.message and is_not_allowed:
        message = (
            f"The server may not {verb} {what}{group} in the namespace {namespace!r}: give its service account a Role"
        )
        return _unavailable(
            f"{message} with that verb, as the chart does. Kubernetes says: {said.message}", _LONG_SECONDS
        )
    if said.status == 404:
        message = (
            f"Kubernetes knows no {what}{group} in the namespace {namespace!r}: install KubeRay and its definitions,"
        )
        return _unavailable(f"{message} or correct the namespace. Kubernetes says: {said.message}", _LONG_SECONDS)
    if said.status in {400, 403, 413, 422}:
        message = f"Kubernetes does not take what the server wants to {verb} in {what}{group}: {said.message}"
        return Refused(Reason.ENGINE_UNAVAILABLE, message, retry_after=_LONG_SECONDS)
    message = f"Kubernetes answered {said.status} to a {verb} of {what}: {said.message}"
    if said.status == 409:
        return Conflict(Reason.ENGINE_UNAVAILABLE, message, retry_after=_SECONDS)
    return _unavailable(message, said.retry_after or _SECONDS)


def unreachable(host: str, error: BaseException) -> Unavailable:
    """For a call to which nothing was answered."""
    said = str(error) or type(error).__name__
    message = f"Kubernetes at {host} can't be reached: {said}"
    return Unreachable(Reason.ENGINE_UNAVAILABLE, message, retry_after=_SECONDS)


def _unavailable(message: str, retry_after: float) -> Unavailable:
    return Unavailable(Reason.ENGINE_UNAVAILABLE, message, retry_after=retry_after)
