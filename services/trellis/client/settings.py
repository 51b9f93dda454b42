"""Where a client calls and as whom: from arguments, the environment, a profile, or what is usual, in this order."""

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from trellis.client._addresses import AddressError, are_several, join
from trellis.client.profiles import Profile, Profiles, config_path, load_profiles
from trellis.errors import InvalidArgument

DEFAULT_ENDPOINT = "localhost:50051"
_SCHEMES = {"http": False, "grpc": False, "https": True, "grpcs": True}
Key: TypeAlias = str | Callable[[], str]
"""A key, or what gives one for each call."""
_KEY = re.compile(r"[\x21-\x7e]+")


@dataclass(frozen=True, slots=True)
class Settings:
    """What was decided; the key is never shown."""

    endpoint: str
    api_key: str = field(repr=False)
    tenant: str
    address: str
    """The endpoint as gRPC takes it: `host:port`, `unix:…`, or `ipv4:…` with several."""
    tls: bool
    ca_file: str
    """A file of certificates to trust; gRPC's own list when empty."""
    certificate_file: str = ""
    """The client's own certificate; none when empty."""
    certificate_key_file: str = ""
    key_source: Callable[[], str] | None = field(default=None, repr=False)
    """Gives the key for each call, such as a token that is renewed from time to time."""

    def key(self) -> str:
        """The key to send now, empty for none; raises InvalidArgument for what can't be one."""
        return self.api_key if self.key_source is None else _sound(self.key_source())


def resolve(
    endpoint: str | None = None,
    api_key: Key | None = None,
    *,
    profile: str | None = None,
    tenant: str | None = None,
    tls: bool | str | os.PathLike[str] | None = None,
    certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Decide each setting on its own; `tls` and `certificate` as for Client.

    The key of a profile that nobody named is not sent to an endpoint that is not that profile's. Raises InvalidArgument
    and ProfileError.
    """
    env = os.environ if environ is None else environ
    chosen, named = _choose(profile or env.get("TRELLIS_PROFILE", ""), env)
    asked = endpoint or env.get("TRELLIS_ENDPOINT", "")
    final = asked or chosen.endpoint or DEFAULT_ENDPOINT
    source = api_key if callable(api_key) else None
    key = "" if callable(api_key) else api_key or env.get("TRELLIS_API_KEY", "")
    if not key and source is None and (named or not asked or asked == chosen.endpoint):
        key = chosen.key()
    ca_file, own, own_key = ("", "", "") if tls is False else _files_of_tls(tls, certificate, chosen, env)
    address, secure = _address(final)
    uses_tls = (bool(ca_file or own) or secure) if tls is None else bool(tls)
    if uses_tls and are_several(address):
        why = "several addresses are for networks of your own, without TLS (http://…); with TLS use one name for all of them"
        raise _wrong(final, why)
    return Settings(
        endpoint=final,
        api_key=_sound(key),
        tenant=(tenant or env.get("TRELLIS_TENANT") or chosen.tenant).removeprefix("tenants/"),
        address=address,
        tls=uses_tls,
        ca_file=ca_file,
        certificate_file=own,
        certificate_key_file=own_key,
        key_source=source,
    )


def _sound(key: str) -> str:
    if key and not _KEY.fullmatch(key):
        raise InvalidArgument.for_field("api_key", "The API key has characters that no key has, such as spaces.")
    return key


def _files_of_tls(
    tls: bool | str | os.PathLike[str] | None,
    certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None,
    profile: Profile,
    env: Mapping[str, str],
) -> tuple[str, str, str]:
    """Whom to trust, and the client's own certificate with its key."""
    ca_file = os.fspath(tls) if tls and not isinstance(tls, bool) else env.get("TRELLIS_CA_FILE") or profile.ca_file
    if certificate is not None:
        return ca_file, os.fspath(certificate[0]), os.fspath(certificate[1])
    own, own_key = env.get("TRELLIS_CERTIFICATE_FILE", ""), env.get("TRELLIS_CERTIFICATE_KEY_FILE", "")
    if not own and not own_key:
        own, own_key = profile.certificate_file, profile.certificate_key_file
    if bool(own) != bool(own_key):
        message = "A client's certificate and its key are two files; name both, or neither."
        raise InvalidArgument.for_field("certificate", message)
    return ca_file, own, own_key


def _choose(name: str, env: Mapping[str, str]) -> tuple[Profile, bool]:
    profiles: Profiles = load_profiles(config_path(env))
    if name:
        return profiles.named(name), True
    return (profiles.named(profiles.current) if profiles.current else Profile()), False


def _address(endpoint: str) -> tuple[str, bool]:
    """gRPC's address, and whether it is spoken to with TLS unless told otherwise: not where the scheme or loopback says."""
    if endpoint.startswith("unix:"):
        return endpoint, False
    scheme, separator, rest = endpoint.rpartition("://")
    if separator and scheme not in _SCHEMES:
        raise _wrong(endpoint, f"its scheme must be one of {', '.join(_SCHEMES)}")
    if are_several(rest):
        return _several(endpoint, rest.rstrip("/"), _SCHEMES[scheme] if separator else None)
    host, port = _split(endpoint, rest.rstrip("/"))
    secure = _SCHEMES[scheme] if separator else not _is_loopback(host)
    shown = f"[{host}]" if ":" in host else host
    return f"{shown}:{port or ('443' if secure else '50051')}", secure


def _several(endpoint: str, rest: str, secure: bool | None) -> tuple[str, bool]:
    try:
        address, are_here = join(rest)
    except AddressError as error:
        raise _wrong(endpoint, str(error)) from None
    return address, not are_here if secure is None else secure


def _split(endpoint: str, rest: str) -> tuple[str, str]:
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+))(?::([0-9]{1,5}))?", rest)
    if match is None:
        raise _wrong(endpoint, "it must be `host:port`, such as localhost:50051 or https://trellis.example.com")
    return match[1] or match[2], match[3] or ""


def _wrong(endpoint: str, why: str) -> InvalidArgument:
    return InvalidArgument.for_field("endpoint", f"{endpoint!r} can't be an endpoint: {why}.")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
