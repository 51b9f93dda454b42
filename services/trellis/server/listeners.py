"""Where the API listens, and how it is spoken there."""

from dataclasses import replace
from pathlib import Path

import grpc

from trellis.server.app.context import Context
from trellis.server.config import Address, ConfigError, ServerConfig
from trellis.server.rpc.certificates import CertificateError, CertificateFiles, server_credentials
from trellis.server.rpc.health import ServerHealth
from trellis.server.rpc.server import JOBS_SERVICES, build_grpc_server
from trellis.server.tls_options import TlsOptions


def listening_servers(
    config: ServerConfig, context: Context, health: ServerHealth, server: grpc.aio.Server
) -> tuple[grpc.aio.Server, ...]:
    """The API's server with its port, and the one for jobs alone where there is an address for it.

    Raises ConfigError for files of TLS that are of no use.
    """
    files = _files(config.tls)
    _open(server, config.grpc_address, files)
    if config.worker_address is None:
        return (server,)
    jobs = build_grpc_server(context, health, JOBS_SERVICES)
    _open(jobs, config.worker_address, replace(files, client_ca=None) if files else None)
    return server, jobs


def _files(options: TlsOptions) -> CertificateFiles | None:
    if not options.enabled:
        return None
    ca = Path(options.client_ca_file) if options.client_ca_file else None
    return CertificateFiles(Path(options.certificate_file), Path(options.key_file), ca)


def _open(server: grpc.aio.Server, address: Address, files: CertificateFiles | None) -> None:
    if files is None:
        server.add_insecure_port(str(address))
        return
    try:
        server.add_secure_port(str(address), server_credentials(files))
    except CertificateError as error:
        raise ConfigError(f"Of the variables TRELLIS_TLS_…, {error}") from None
