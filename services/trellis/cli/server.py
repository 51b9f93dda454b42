"""`trellis server`: the control plane alone, for a cluster that has its Ray, database and object store already."""

import os
import sys

import click

_SETTINGS = (
    ("database-url", "sqlite+aiosqlite:///PATH or postgresql+psycopg://…"),
    ("store-url", "A folder, or s3://BUCKET/PREFIX."),
    ("ray-dashboard-url", "Where Ray's dashboard is."),
    ("ray-token-file", "The file with Ray's token, if it asks for one."),
    ("secret-file", "The file with the server's secret; made if it is missing."),
    ("admin-key-file", "Where the first admin's key is written."),
    ("grpc-address", "HOST:PORT of the API."),
    ("http-address", "HOST:PORT of health and metrics."),
    ("worker-endpoint", "HOST:PORT at which jobs reach this server."),
    ("worker-address", "HOST:PORT of the API for jobs alone."),
    ("tls-certificate-file", "The certificate with which the API speaks TLS, as PEM."),
    ("tls-key-file", "The certificate's key."),
    ("tls-client-ca-file", "The CA that must have signed every client's certificate."),
    ("tls-worker-ca-file", "The CA that jobs trust when they call the API."),
    ("oidc-file", "The identity providers whose tokens open the API."),
    ("base-models", "NAME=SOURCE,…: registered at the start."),
    ("log-format", "json or console."),
)


@click.command()
def server(**values: str | None) -> None:
    """Run the control plane.

    Each option can be set as an environment variable too: TRELLIS_ and its name in capitals, as can the further
    settings that docs/operations.md lists.
    """
    chosen = {f"TRELLIS_{name.upper()}": value for name, value in values.items() if value is not None}
    # In place of this process: signals reach the server itself, and the CLI never imports it.
    os.execve(sys.executable, [sys.executable, "-m", "trellis.server"], {**os.environ, **chosen})  # noqa: S606  no shell, our own module


for _name, _help in reversed(_SETTINGS):
    server = click.option(f"--{_name}", metavar="VALUE", default=None, help=_help)(server)
