"""A Swift server of a test's own, which may be killed and started again over what it has on disk."""

import os
import signal
import sys
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from trellis.local.ports import free_ports
from trellis.local.processes import MARKER, Child
from trellis.local.stack import answers
from trellis.objects import ObjectStore

BUCKET: Final = "trellis-tests"
CREDENTIALS: Final = {"AWS_ACCESS_KEY_ID": "trellis:chaos", "AWS_SECRET_ACCESS_KEY": "chaos-secret"}
"""Swift's access keys name an account and a user of it."""
_READY_SECONDS = 60.0


def swift_command(folder: Path, port: int) -> list[str]:
    """What starts one over this folder."""
    return [sys.executable, "-W", "ignore", "-m", "tests.swift_s3", str(folder), str(port)]


def is_ready(port: int) -> bool:
    """Whether one serves there."""
    return answers(f"http://127.0.0.1:{port}/healthcheck")


class SwiftProcess:
    """The server, with an empty bucket once it is entered."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._port = free_ports(1)[0]
        environment = {**os.environ, **CREDENTIALS, MARKER: uuid.uuid4().hex[:16]}
        self._child = Child("swift", swift_command(folder / "swift", self._port), environment, folder / "swift.log")

    def __enter__(self) -> Self:
        try:
            self.start()
            self.store()._fs.call_s3("create_bucket", Bucket=BUCKET)
        except BaseException:
            self._child.stop(0.0)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._child.stop(0.0)

    def start(self) -> None:
        """Start, and return when it serves."""
        self._child.start()
        deadline = time.monotonic() + _READY_SECONDS
        while not is_ready(self._port):
            assert self._child.exit_code() is None, self._child.last_lines(30)
            assert time.monotonic() < deadline, f"Swift does not serve: {self._child.last_lines(30)}"
            time.sleep(0.1)

    def kill(self) -> None:
        """SIGKILL, in the middle of whatever it does."""
        assert self._child.pid is not None
        os.kill(self._child.pid, signal.SIGKILL)
        while self._child.exit_code() is None:
            time.sleep(0.01)

    def store(self, **options: Any) -> ObjectStore:
        """A store as the server has it, but for the credentials, which are not in the environment here."""
        return ObjectStore.open(
            f"s3://{BUCKET}/prefix",
            key=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            secret=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=f"http://127.0.0.1:{self._port}",
            skip_instance_cache=True,
            client_kwargs={"region_name": "us-east-1"},
            **options,
        )
