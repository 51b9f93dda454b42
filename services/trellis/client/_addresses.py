"""Several servers' addresses in one endpoint: `10.0.0.1:50051,10.0.0.2:50051`."""

import ipaddress
import json
from typing import Any

_PREFIXES = ("ipv4:", "ipv6:")
_PORT = "50051"
_SPREAD: tuple[tuple[str, Any], ...] = (
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
)


class AddressError(ValueError):
    """What is wrong, as the end of a sentence."""


def are_several(endpoint: str) -> bool:
    """Whether an endpoint without its scheme names more than one server."""
    return "," in endpoint or endpoint.startswith(_PREFIXES)


def options_for(address: str) -> tuple[tuple[str, Any], ...]:
    """What a channel needs to spread calls over all servers of an address: whoever is gone is left out."""
    return _SPREAD if address.startswith(_PREFIXES) else ()


def join(endpoint: str) -> tuple[str, bool]:
    """gRPC's address of several servers, and whether all of them are on this machine. Raises AddressError."""
    family = endpoint[:5] if endpoint.startswith(_PREFIXES) else ""
    parts = [_split(part.strip()) for part in endpoint.removeprefix(family).split(",")]
    versions = {host.version for host, _ in parts}
    if len(versions) != 1 or family not in {"", f"ipv{parts[0][0].version}:"}:
        raise AddressError("its addresses must all be IPv4, or all IPv6")
    hosts = [f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}" for host, port in parts]
    return f"ipv{versions.pop()}:{','.join(hosts)}", all(host.is_loopback for host, _ in parts)


def _split(part: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, str]:
    host, port = part, ""
    if part.startswith("[") or part.count(":") == 1:
        host, _, port = part.rpartition(":") if not part.endswith("]") else (part, "", "")
    if port and not (port.isascii() and port.isdecimal() and int(port) < 65536):
        raise AddressError(f"{part!r} has no port that there could be")
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host.strip("[]"))
    except ValueError:
        message = f"of several servers each must be an IP address, not {host!r}; of one name that stands for all of them, none"
        raise AddressError(message) from None
    return address, port or _PORT
