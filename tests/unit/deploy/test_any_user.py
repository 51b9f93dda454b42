"""The images as a cluster runs them that chooses the user, as OpenShift does: one that no file knows, in the group 0."""

import getpass
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.images.layout import ROOT, Image, Stage

SECONDS = 100.0
USER = 1000620000
Run = Callable[..., subprocess.CompletedProcess[str]]
SETPRIV = shutil.which("setpriv")
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or SETPRIV is None, reason="only root may start a process as another user"
)


def started(*command: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """As the user. `env` starts it, when all that root may do is gone."""
    assert SETPRIV is not None
    return subprocess.run(
        [SETPRIV, "--reuid", str(USER), "--regid", "0", "--clear-groups", "--no-new-privs", "/usr/bin/env", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def python() -> str:
    """An interpreter of this version that other users may start, too: root's own may lie in root's home."""
    for one in (os.path.realpath(sys.executable), f"/usr/bin/python3.{sys.version_info.minor}"):
        if started(one, "-c", "import ssl, sqlite3, ctypes", folder=Path("/"), environment={}).returncode == 0:
            return one
    pytest.skip("no Python here may be started by another user")


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """Where another user may look; pytest's own folders are its owner's alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="module")
def server(scratch: Path) -> Stage:
    """The image's files, with the folder for temporary files as Kubernetes makes it."""
    stage = Image(ROOT / "deploy/server/Dockerfile", scratch).last
    stage.inside("/tmp").chmod(0o1777)
    return stage


@pytest.fixture(scope="module")
def run(python: str, server: Stage) -> Run:
    """Python as in a container of the image, but for the user."""
    (packages,) = server.inside("/opt/trellis/lib").glob("*/site-packages")

    def run(*command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = {**server.environment, "PYTHONPATH": str(packages), **settings}
        return started(python, *command, folder=server.inside("/tmp"), environment=environment)

    return run


WRITES = """
import getpass, os, sys
from pathlib import Path
print(getpass.getuser(), os.getuid(), os.getgid())
for folder in sys.argv[1:]:
    try:
        (Path(folder) / "probe").write_text("")
        print("writes")
    except PermissionError:
        print("may not")
"""


def test_it_is_a_user_who_is_nobody_and_may_write_where_it_must(server: Stage, run: Run) -> None:
    folders = [str(server.inside(path)) for path in ("/var/lib/trellis", "/bases", "/tmp", "/opt/trellis")]
    done = run("-c", WRITES, *folders)
    assert done.stdout.split("\n")[0] == f"trellis {USER} 0", done.stderr
    assert done.stdout.split("\n")[1:-1] == ["writes", "writes", "writes", "may not"]
    assert getpass.getuser() != "trellis"


def test_the_database_is_migrated_and_a_base_model_is_fetched(server: Stage, run: Run) -> None:
    data = server.inside("/var/lib/trellis")
    url = {"TRELLIS_DATABASE_URL": f"sqlite+aiosqlite:///{data / 'trellis.db'}"}
    for words in ([], ["--check"]):
        done = run("-m", "trellis.server.store.migrations", *words, **url)
        assert done.returncode == 0, done.stderr
    (base,) = server.inside("/opt/trellis/lib").glob("*/site-packages/trellis/base_models/trellis-tiny")
    done = run("-m", "trellis.base_cache", str(base), TRELLIS_BASE_CACHE=str(server.inside("/bases")))
    assert done.returncode == 0, done.stderr


def test_the_server_starts_and_makes_its_files(server: Stage, run: Run) -> None:
    data = server.inside("/var/lib/trellis")
    done = run(
        "-c",
        STARTS_AND_ENDS,
        TRELLIS_DATABASE_URL=f"sqlite+aiosqlite:///{data / 'started.db'}",
        TRELLIS_STORE_URL=str(data / "objects"),
        TRELLIS_SECRET_FILE=str(data / "server.secret"),
        TRELLIS_ADMIN_KEY_FILE=str(data / "admin.key"),
        TRELLIS_RAY_DASHBOARD_URL="http://127.0.0.1:9",
        TRELLIS_GRPC_ADDRESS="127.0.0.1:0",
        TRELLIS_HTTP_ADDRESS="127.0.0.1:0",
    )
    assert done.returncode == 0, done.stderr
    assert (data / "admin.key").read_text().startswith("trk_")
    assert {(data / name).stat().st_uid for name in ("admin.key", "server.secret", "started.db")} == {USER}


STARTS_AND_ENDS = """
import os, signal, threading
from pathlib import Path
from trellis.server.main import main

def end_when_ready():
    while not Path(os.environ["TRELLIS_ADMIN_KEY_FILE"]).exists():
        threading.Event().wait(0.05)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=end_when_ready, daemon=True).start()
raise SystemExit(main())
"""

RAY = """
import os, ray
ray.init(num_cpus=1, include_dashboard=False, _temp_dir=os.environ["TMPDIR"] + "/r", object_store_memory=80 * 2**20)
print(ray.get(ray.remote(lambda: (os.getuid(), os.getgid())).remote()))
ray.shutdown()
"""


def test_ray_runs_what_it_is_given(python: str) -> None:
    """With the environment that both images have; Ray's sockets need a short path."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        Path(folder).chmod(0o1777)
        environment = {"PATH": "/usr/bin:/bin", "USER": "trellis", "HOME": folder, "TMPDIR": folder}
        environment |= {"PYTHONPATH": sysconfig.get_paths()["purelib"], "RAY_USAGE_STATS_ENABLED": "0"}
        done = started(python, "-c", RAY, folder=Path(folder), environment=environment)
    assert done.stdout.split("\n")[-2] == f"({USER}, 0)", done.stderr
