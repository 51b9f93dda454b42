"""What the API answers when it says no, in the shape and the words of the real one."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trellis.server.clusters.kuberay.resources import Resource


class StatusError(Exception):
    """An answer that is no success."""

    def __init__(self, code: int, reason: str, message: str, details: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            **({"details": details} if details else {}),
            "code": code,
        }


@contextmanager
def overtaken() -> Iterator[None]:
    """Leave it there if somebody has changed or deleted the object meanwhile: who looks again sees that."""
    try:
        yield
    except StatusError as error:
        if error.code not in {404, 409}:
            raise


def qualified(kind: Resource) -> str:
    """Such as `rayjobs.ray.io`."""
    return f"{kind.plural}.{kind.group}" if kind.group else kind.plural


def not_found(kind: Resource, name: str) -> StatusError:
    """There is no such object."""
    return StatusError(404, "NotFound", f'{qualified(kind)} "{name}" not found', _details(kind, name))


def may_not_make(kind: Resource, name: str) -> StatusError:
    """Who applies may not create: Kubernetes says no more."""
    return StatusError(403, "Forbidden", f'{qualified(kind)} "{name}" is forbidden: ', _details(kind, name))


def no_such_namespace(namespace: str) -> StatusError:
    """Nothing can be made in it."""
    details = {"name": namespace, "kind": "namespaces"}
    return StatusError(404, "NotFound", f'namespaces "{namespace}" not found', details)


def already_exists(kind: Resource, name: str) -> StatusError:
    """Another object has the name."""
    return StatusError(409, "AlreadyExists", f'{qualified(kind)} "{name}" already exists', _details(kind, name))


def conflict(kind: Resource, name: str, why: str) -> StatusError:
    """The object is not as it was thought to be."""
    message = f'Operation cannot be fulfilled on {qualified(kind)} "{name}": {why}'
    return StatusError(409, "Conflict", message, _details(kind, name))


def invalid(kind: Resource, name: str, errors: list[str]) -> StatusError:
    """The object breaks the rules of its kind."""
    causes = [{"reason": "FieldValueInvalid", "message": error, "field": error.split(" ")[0]} for error in errors]
    details = {"name": name, "group": kind.group, "kind": kind.kind, "causes": causes}
    message = f'{kind.kind}{"." + kind.group if kind.group else ""} "{name}" is invalid: {"; ".join(errors)}'
    return StatusError(422, "Invalid", message, details)


def bad_request(message: str) -> StatusError:
    """The request itself is wrong."""
    return StatusError(400, "BadRequest", message)


def unauthorized() -> StatusError:
    """Who asks is not known."""
    return StatusError(401, "Unauthorized", "Unauthorized")


def forbidden(verb: str, kind: Resource, part: str, namespace: str, name: str = "") -> StatusError:
    """Who asks may not do it."""
    user = f"system:serviceaccount:{namespace}:trellis-server"
    resource = kind.plural + part
    of = f'{qualified(kind)} "{name}"' if name else qualified(kind)
    message = (
        f'{of} is forbidden: User "{user}" cannot {verb} resource "{resource}" in API group "{kind.group}"'
        f' in the namespace "{namespace}"'
    )
    return StatusError(403, "Forbidden", message, _details(kind, name))


def expired(message: str = "The resourceVersion for the provided watch is too old.") -> StatusError:
    """What was asked for lies too far back."""
    return StatusError(410, "Expired", message)


def _details(kind: Resource, name: str) -> dict[str, Any]:
    return {
        **({"name": name} if name else {}),
        **({"group": kind.group} if kind.group else {}),
        "kind": kind.plural,
    }
