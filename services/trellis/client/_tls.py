"""TLS: the credentials of a channel, and what is wrong when no connection comes about.

gRPC says of a plain client at a TLS port no more than that the socket was closed, and retries would say it again and again:
what is set up wrongly is told from what is away by a look at the port.
"""

import re
import socket
import ssl
from pathlib import Path

import grpc

from trellis.client._status import FailedCall
from trellis.client.settings import Settings
from trellis.errors import InvalidArgument, TrellisError

_SECONDS = 2.0
_NO_CONNECTION = "failed to connect to all addresses"
_CUT = re.compile(r"Socket closed|Connection reset|Broken pipe")


def credentials_of(settings: Settings) -> grpc.ChannelCredentials | None:
    """What the settings' files say; None for plain text. Raises OSError where a file can't be read, InvalidArgument."""
    if not settings.tls:
        return None
    roots = _roots(settings.ca_file) if settings.ca_file else None
    if not settings.certificate_file:
        return grpc.ssl_channel_credentials(roots)
    pair = (settings.certificate_file, settings.certificate_key_file)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(*pair, password="")
    except (ssl.SSLError, ValueError) as error:
        message = f"{pair[0]} and {pair[1]} are not a PEM certificate and its key without a password: {error}."
        raise InvalidArgument.for_field("certificate", message) from None
    return grpc.ssl_channel_credentials(roots, Path(pair[1]).read_bytes(), Path(pair[0]).read_bytes())


def _roots(file: str) -> bytes:
    data = Path(file).read_bytes()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=data.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        message = f"{file} holds no PEM certificates to trust: {error}."
        raise InvalidArgument.for_field("tls", message) from None
    return data


def suspicious(call: FailedCall) -> bool:
    """Whether a failed call may have failed for how TLS is set up."""
    return call.code() is grpc.StatusCode.UNAVAILABLE and _NO_CONNECTION in (call.details() or "")


def misconfigured(call: FailedCall, settings: Settings) -> TrellisError | None:
    """What is wrong with how TLS is set up, as far as that is why a call failed; may look at the port, for seconds."""
    if not suspicious(call):
        return None
    said = call.details() or ""
    why = _of_handshake(said, settings) if settings.tls else None
    if why is None and _CUT.search(said):
        why = _of_port(settings)
    return InvalidArgument.for_field("endpoint", why) if why else None


def _of_handshake(said: str, settings: Settings) -> str | None:
    if "WRONG_VERSION_NUMBER" in said:
        return (
            f"The server at {settings.endpoint} does not speak TLS, but this client does. If the network is trusted, "
            "say http:// in the endpoint, or tls=False; the key then travels in clear text."
        )
    if "CERTIFICATE_VERIFY_FAILED" in said:
        detail = said.partition("CERTIFICATE_VERIFY_FAILED:")[2].partition(":")[0].strip()
        return (
            f"The certificate of the server at {settings.endpoint} is not vouched for by anyone whom this client trusts "
            f"({detail}). Name the file of its CA: `tls=`, TRELLIS_CA_FILE, or ca_file in the profile."
        )
    if "Hostname Verification" in said:
        return f"The certificate of the server at {settings.endpoint} is for another host: call it by a name in there."
    return None


def _of_port(settings: Settings) -> str | None:
    welcomed = _welcomes(settings)
    if welcomed is None:
        return None
    if not settings.tls:
        return (
            f"The server at {settings.endpoint} speaks TLS, but this client does not: say https:// in the endpoint, "
            "or tls=True, or name the file of its CA (`tls=`, TRELLIS_CA_FILE, ca_file in the profile)."
        )
    if welcomed:
        return None
    if settings.certificate_file:
        return (
            f"The server at {settings.endpoint} does not accept the certificate in {settings.certificate_file}: it may "
            "have expired, or be signed by another CA than the one that the server trusts."
        )
    return (
        f"The server at {settings.endpoint} asks every client for a certificate: name its file and that of its "
        "key (`certificate=`, TRELLIS_CERTIFICATE_FILE and TRELLIS_CERTIFICATE_KEY_FILE, or both in the profile)."
    )


def _welcomes(settings: Settings) -> bool | None:
    """Whether the port goes on speaking after a handshake of TLS, with the own certificate if there is one; None if it
    speaks no TLS. A server that was only just away is not mistaken for one that refuses.
    """
    address = settings.address
    first = address.removeprefix("ipv4:").removeprefix("ipv6:").partition(",")[0]  # of several servers
    host, _, port = first.rpartition(":")
    if address.startswith("unix:") or not port.isdecimal():
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # looked at, and nothing said to it
    context.set_alpn_protocols(["h2"])
    host = host.strip("[]")
    try:
        if settings.certificate_file:
            context.load_cert_chain(settings.certificate_file, settings.certificate_key_file, password="")
        with (
            socket.create_connection((host, int(port)), _SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            return _speaks(secure)
    except (OSError, ValueError):
        return None


def _speaks(secure: ssl.SSLSocket) -> bool:
    # A server of HTTP/2 speaks first; one that misses a certificate says so or hangs up, after the handshake.
    try:
        return secure.recv(1) != b""
    except TimeoutError:
        return True
    except OSError:
        return False
