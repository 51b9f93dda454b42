"""The server's certificate, read again when its files change."""

import os
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc
import structlog
from cryptography import x509

from trellis.server.rpc import metrics

_log = structlog.get_logger(__name__)
_Stamps = tuple[tuple[int, int, int], ...]


class CertificateError(ValueError):
    """The files of TLS are of no use; `str()` says which and why."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """Where the certificate is; with `client_ca`, clients must have one too."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def all(self) -> tuple[Path, ...]:
        """The files."""
        return (self.certificate, self.key, *([self.client_ca] if self.client_ca else []))


def server_credentials(files: CertificateFiles) -> grpc.ServerCredentials:
    """TLS with these files; a new connection has what is in them then. Raises CertificateError."""
    certificates = _Certificates(files)
    return grpc.dynamic_ssl_server_credentials(
        certificates.first,
        certificates.changed,  # type: ignore[arg-type]  # None means no change, which the stubs leave out
        require_client_authentication=files.client_ca is not None,
    )


class _Certificates:
    """Looks at the files on each handshake, in gRPC's threads; keeps what it has where new files are of no use."""

    def __init__(self, files: CertificateFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._seen = _stamps(files)
        self.first = _read(files)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """The new configuration; None while the old one is to be used."""
        try:
            with self._lock:
                stamps = _stamps(self._files)
                if stamps == self._seen:
                    return None
                found = _read(self._files)
                self._seen = stamps
        except CertificateError as error:  # said once a connection, until it is mended
            _log.warning("certificate_not_changed", why=str(error))
            return None
        _log.info("certificate_changed", certificate=str(self._files.certificate))
        return found


def _stamps(files: CertificateFiles) -> _Stamps:
    try:
        found = [os.stat(file) for file in files.all()]  # noqa: PTH116  the path is followed, as Kubernetes links them
    except OSError as error:
        raise CertificateError(f"{error.filename} can't be read: {error.strerror}.") from None
    return tuple((stat.st_mtime_ns, stat.st_ino, stat.st_size) for stat in found)


def _read(files: CertificateFiles) -> grpc.ServerCertificateConfiguration:
    before = _contents(files)
    _check(files)
    if _contents(files) != before:
        raise CertificateError(f"{files.certificate} or its key changed while it was read.")
    metrics.EXPIRES.set(x509.load_pem_x509_certificate(before[0]).not_valid_after_utc.timestamp())
    return grpc.ssl_server_certificate_configuration([(before[1], before[0])], before[2] if files.client_ca else None)


def _contents(files: CertificateFiles) -> tuple[bytes, ...]:
    try:
        return tuple(file.read_bytes() for file in files.all())
    except OSError as error:
        raise CertificateError(f"{error.filename} can't be read: {error.strerror}.") from None


def _check(files: CertificateFiles) -> None:
    """gRPC itself would take anything, and refuse every connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(files.certificate, files.key, password="")
    except (OSError, ValueError) as error:
        pair = f"{files.certificate} and {files.key}"
        raise CertificateError(f"{pair} are not a PEM certificate and its key without a password: {error}.") from None
    if files.client_ca is not None:
        try:
            context.load_verify_locations(files.client_ca)
        except (OSError, ValueError) as error:
            raise CertificateError(f"{files.client_ca} holds no PEM certificate of a CA: {error}.") from None
