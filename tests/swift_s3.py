"""OpenStack Swift's S3 interface over a folder: what it acknowledged is on the disk, so it may be killed and started again.

`python -m tests.swift_s3 FOLDER PORT` serves whoever has the credentials that its own environment has, until it dies. Swift's four servers are usually processes of many machines; here one
process has them all, as Swift's own tests do it, so that one signal kills or stops the whole of it.
"""

import argparse
import math
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any, Final

import eventlet
import eventlet.debug
from eventlet import hubs, wsgi

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_DEVICE: Final = "disk"
_SECONDS: Final = 60
"""Until a server of it gives another up. They are one process, so none is ever away alone, only slow."""
_KINDS: Final = ("account", "container", "object")
_USUAL: Final = {
    "bind_ip": "127.0.0.1",
    "mount_check": "false",
    "db_preallocation": "off",
    "fallocate_reserve": "0",
    "node_timeout": _SECONDS,
    "conn_timeout": _SECONDS,
    "container_update_timeout": _SECONDS,
    "recoverable_node_timeout": _SECONDS,
    "log_level": "WARNING",
}
_PROXY: Final = """
[pipeline:main]
pipeline = catch_errors healthcheck memory s3api tempauth slo dlo proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
error_suppression_limit = 1000000

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:healthcheck]
use = egg:swift#healthcheck

[filter:memory]
paste.filter_factory = tests.swift_s3:memory

[filter:s3api]
use = egg:swift#s3api
location = us-east-1
multi_delete_concurrency = 1

[filter:tempauth]
use = egg:swift#tempauth
user_{user} = {secret} .admin

[filter:slo]
use = egg:swift#slo

[filter:dlo]
use = egg:swift#dlo
"""
_STORAGE: Final = """
[pipeline:main]
pipeline = {kind}-server

[app:{kind}-server]
use = egg:swift#{kind}
"""


class _Memory:
    """What Swift keeps in memcached, to ask less often whether accounts and buckets are there."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, float]] = {}

    def get(self, key: str, **_: Any) -> Any:
        value, until = self._kept.get(key, (None, math.inf))
        return value if monotonic() < until else None

    def set(self, key: str, value: Any, time: float = 0, **_: Any) -> None:
        self._kept[key] = (value, monotonic() + time if time else math.inf)

    def delete(self, key: str, **_: Any) -> None:
        self._kept.pop(key, None)


def memory(_: Mapping[str, str], **__: str) -> Callable[[Application], Application]:
    """The filter of Swift's pipeline that has it."""
    kept = _Memory()

    def remembering(app: Application) -> Application:
        def call(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            environ["swift.cache"] = kept
            return app(environ, start_response)

        return call

    return remembering


def _set_up(folder: Path, ports: Mapping[str, int]) -> dict[str, Path]:
    """Write Swift's settings and rings, and give the settings' files by kind of server."""
    from swift.common.ring import RingBuilder  # noqa: PLC0415 - reads swift.conf when it is imported

    found = {}
    # Swift's access keys name an account and a user of it.
    user, secret = os.environ["AWS_ACCESS_KEY_ID"].replace(":", "_"), os.environ["AWS_SECRET_ACCESS_KEY"]
    (folder / _DEVICE).mkdir(exist_ok=True)
    for kind in _KINDS:
        builder = RingBuilder(part_power=1, replicas=1, min_part_hours=0)
        where = {"ip": "127.0.0.1", "port": ports[kind], "device": _DEVICE, "region": 1, "zone": 1, "weight": 1}
        builder.add_dev({**where, "replication_ip": where["ip"], "replication_port": where["port"]})
        builder.rebalance()
        builder.get_ring().save(str(folder / f"{kind}.ring.gz"))
    for kind in (*_KINDS, "proxy"):
        usual = {**_USUAL, "swift_dir": folder, "devices": folder, "bind_port": ports[kind]}
        default = "".join(f"{name} = {value}\n" for name, value in usual.items())
        rest = _PROXY.format(user=user, secret=secret) if kind == "proxy" else _STORAGE.format(kind=kind)
        found[kind] = folder / f"{kind}.conf"
        found[kind].write_text(f"[DEFAULT]\n{default}{rest}")
    return found


def serve(folder: Path, port: int) -> None:
    """Serve until the process ends."""
    folder.mkdir(exist_ok=True)
    (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = chaos\n")
    # Before anything else of Swift is imported: it looks for its settings then.
    from swift.common import utils  # noqa: PLC0415

    utils.set_swift_dir(str(folder))
    utils.monkey_patch()
    hubs.use_hub(utils.get_hub())
    eventlet.debug.hub_exceptions(False)
    listening = {kind: eventlet.listen(("127.0.0.1", 0), reuse_port=False) for kind in _KINDS}
    # Its own port last: who gets through to it finds all of it there.
    settings = _set_up(folder, {**{kind: each.getsockname()[1] for kind, each in listening.items()}, "proxy": port})
    serving = [eventlet.spawn(_serve, listening[kind], settings[kind]) for kind in _KINDS]
    serving.append(eventlet.spawn(_serve, eventlet.listen(("127.0.0.1", port), reuse_port=False), settings["proxy"]))
    for each in serving:
        each.wait()


def _serve(listening: socket.socket, settings: Path) -> None:
    from swift.common.http_protocol import SwiftHttpProtocol  # noqa: PLC0415
    from swift.common.utils import NullLogger  # noqa: PLC0415
    from swift.common.wsgi import loadapp  # noqa: PLC0415

    app: Any = loadapp(str(settings), global_conf={"log_name": settings.stem})
    wsgi.server(listening, app, NullLogger(), protocol=SwiftHttpProtocol, capitalize_response_headers=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.swift_s3", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    asked = parser.parse_args()
    serve(asked.folder, asked.port)
