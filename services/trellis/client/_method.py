"""The API's methods, as the SDK calls them."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

Req = TypeVar("Req", bound=Message)
Res = TypeVar("Res", bound=Message)
Res_co = TypeVar("Res_co", bound=Message, covariant=True)


@dataclass(frozen=True, slots=True)
class Method(Generic[Req, Res_co]):
    """A method: `Service/Method`, its messages, and whether a call may be repeated without a change in what it does."""

    name: str
    request: type[Req]
    response: type[Res_co]
    repeatable: bool = True

    @property
    def path(self) -> str:
        """The path on the wire."""
        return f"/trellis.v1.{self.name}"
