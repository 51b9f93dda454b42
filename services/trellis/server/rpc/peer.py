"""Where a call comes from."""

from urllib.parse import unquote


def address_of(peer: str) -> str:
    """The address in gRPC's name of a peer, without the port, such as `192.0.2.1`, `2001:db8::1` or `unix`.

    What is of another form is given back as it is, at most 100 characters of it.
    """
    scheme, _, rest = peer.partition(":")
    match scheme:
        case "ipv4":
            return rest.rpartition(":")[0] or rest
        case "ipv6":
            return unquote(rest).rpartition("]:")[0].removeprefix("[") or rest
        case "unix" | "unix-abstract":
            return "unix"
        case _:
            return peer[:100]
