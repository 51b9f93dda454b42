"""Ports on this machine."""

import contextlib
import random
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Final

_CLIENTS_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST: Final = 15_000
_USUAL_FIRST_OF_CLIENTS: Final = 32_768


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """So many different ports on which nobody listens now. Raises OSError where there are not so many.

    None of them is one that the kernel gives to clients' connections: those are taken by anybody at any time, also while
    the server that had one is being started again, which then could not be.
    """
    found: list[int] = []
    candidates = range(_LOWEST, max(_first_of_clients(), _LOWEST + 1000))
    with ExitStack() as stack:
        for port in random.SystemRandom().sample(candidates, len(candidates)):
            if len(found) == count:
                break
            probe = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind((host, port))
                found.append(port)
    if len(found) < count:
        raise OSError(f"There are no {count} free ports on {host}.")
    return found


def _first_of_clients() -> int:
    try:
        return int(_CLIENTS_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _USUAL_FIRST_OF_CLIENTS
