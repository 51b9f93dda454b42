"""How the API speaks TLS."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """The files of TLS, all PEM; the API speaks plain text without them."""

    certificate_file: str = ""
    """The server's certificate with those that lead to its CA; without it the API speaks plain text."""
    key_file: str = ""
    """The certificate's private key."""
    client_ca_file: str = ""
    """Certificates of which one must have signed that of every client: mutual TLS. Jobs then need TRELLIS_WORKER_ADDRESS."""
    worker_ca_file: str = ""
    """The certificates that jobs trust when they call the server; what gRPC trusts by itself when empty."""

    def __post_init__(self) -> None:
        if bool(self.certificate_file) != bool(self.key_file):
            raise ValueError("certificate_file and key_file must be set both or neither.")
        if self.client_ca_file and not self.certificate_file:
            raise ValueError("client_ca_file needs certificate_file and key_file: clients prove themselves within TLS.")

    @property
    def enabled(self) -> bool:
        """Whether the API speaks TLS."""
        return bool(self.certificate_file)
