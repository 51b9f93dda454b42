"""Each extra of pyproject.toml is whole by itself: with it alone, its programs start, and all their modules import."""

import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Final

import grimp
import pytest
from deploy.requirements import requirements
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[3]
PYPROJECT: Final = ROOT / "pyproject.toml"
PROJECT: Final = tomllib.loads(PYPROJECT.read_text())["project"]
SECONDS: Final = 300
MODULES: Final = """
import importlib, pkgutil, sys
left_out = sys.argv[1].split(",")
for package in sys.argv[2:]:
    top = importlib.import_module(package)
    for name in (package, *(m.name for m in pkgutil.walk_packages(getattr(top, "__path__", ()), f"{package}."))):
        if not name.endswith("__main__") and ".migrations." not in name and name not in left_out:
            try:
                importlib.import_module(name)
            except Exception as error:
                print(f"MISSING {name}: {error!r}")
"""
STORE: Final = """
from trellis.objects import ObjectStore
assert ObjectStore.open("s3://bucket/prefix").url == "s3://bucket/prefix"
"""
DATABASES: Final = """
from trellis.server.store.engine import create_engine_for
for url in ("sqlite+aiosqlite:////tmp/none.db", "postgresql+psycopg://trellis@nowhere/trellis"):
    create_engine_for(url)
"""


@dataclass(frozen=True, slots=True)
class Case:
    """What is installed, and what must work with it."""

    extras: tuple[str, ...]
    packages: tuple[str, ...]
    programs: tuple[str, ...] = ()
    """Modules that are run with --help."""
    left_out: tuple[str, ...] = ()
    """Modules that import what only some machines have, or another extra brings, when it is there."""
    code: str = ""


_GPU = ("trellis.lora.ops.triton_kernels", "trellis.engine.cuda.paged_kernels")
_JOBS = ("trellis_jobs.shared.main", "trellis_jobs.distributed.main", "trellis_jobs.export.main")
CASES: Final = (
    # `trellis up` and whatever runs a platform say of themselves which extra they need.
    Case((), ("trellis.client", "trellis.spec", "trellis.names", "trellis.errors", "trellis.v1"), ("trellis.cli.main",)),
    Case(
        ("server",),
        ("trellis.server", "trellis.cli", "trellis.client", "trellis.base_cache", "trellis.isolation", "trellis.sizing"),
        ("trellis.server.store.migrations", "trellis.server.simulator", "trellis.base_cache", "trellis.server.check_store"),
        code=STORE + DATABASES,
    ),
    Case(("server", "ray"), ("trellis.local", "trellis.demo")),
    Case(("train",), ("trellis_jobs", "trellis.lora", "trellis.native"), left_out=_GPU, code=f"import {', '.join(_JOBS)}\n{STORE}"),
    Case(("serve",), ("trellis.serving", "trellis.engine"), left_out=(*_GPU, "trellis.serving.vllm_engine"), code=STORE),
)  # fmt: skip


def name_of(case: Case) -> str:
    return ",".join(case.extras) or "nothing"


@pytest.mark.slow
@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_with_it_alone_nothing_is_missing(case: Case, tmp_path: Path) -> None:
    python = installed(requirements(PYPROJECT, case.extras), tmp_path)
    done = run(python, "-c", MODULES, ",".join(case.left_out), *case.packages)
    missing = [line for line in done.stdout.splitlines() if line.startswith("MISSING ")]  # DeepSpeed prints to it too
    assert (done.returncode, missing) == (0, []), done.stderr[-2000:]
    done = run(python, "-c", case.code)
    assert done.returncode == 0, done.stderr[-2000:]
    for program in case.programs:
        done = run(python, "-m", program, "--help")
        assert "usage" in done.stdout.lower(), done.stderr[-2000:]


def installed(lines: Sequence[str], folder: Path) -> Path:
    """An interpreter that has these with what they need, in the locked versions, and Trellis; nothing else."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    (folder / "requirements.txt").write_text("\n".join(lines))
    stand_in: list[str | Path] = [
        python,
        ROOT / "tests/images/pip_stand_in.py",
        "install",
        "--requirement",
        folder / "requirements.txt",
    ]
    linked = {"LINKED_FROM": sysconfig.get_paths()["purelib"], "PATH": "/usr/bin:/bin"}
    subprocess.run(stand_in, env=linked, check=True)
    (site,) = (folder / "venv" / "lib").glob("*/site-packages")
    (site / "trellis.pth").write_text(f"{ROOT / 'services'}\n{ROOT / 'ray_jobs'}\n")
    known = site / f"trellis-{PROJECT['version']}.dist-info"
    known.mkdir()
    (known / "METADATA").write_text(f"Metadata-Version: 2.4\nName: trellis\nVersion: {PROJECT['version']}\n")
    return python


def run(python: Path, *words: str) -> subprocess.CompletedProcess[str]:
    settings = {"PATH": "/usr/bin:/bin", "HOME": str(python.parents[2]), "TRELLIS_NATIVE": "0", "OMP_NUM_THREADS": "1"}
    settings |= {"PYTHONDONTWRITEBYTECODE": "1", "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    return subprocess.run(
        [python, *words], env=settings, cwd="/", capture_output=True, text=True, timeout=SECONDS, check=False
    )


def test_the_extra_of_the_other_engine_names_all_that_its_modules_import() -> None:
    """It pins a torch of its own, so that it can't be beside the others here: this reads the imports."""
    graph = grimp.build_graph("trellis", include_external_packages=True, exclude_type_checking_imports=True)
    waiting, seen = ["trellis.serving.app", "trellis.serving.vllm_engine"], {"trellis.serving.trellis_engine"}
    while waiting:
        module = waiting.pop()
        if module in seen or not module.startswith("trellis"):
            seen.add(module)
            continue
        seen.add(module)
        waiting += [module.rpartition(".")[0]] if "." in module else []
        waiting += graph.find_modules_directly_imported_by(module)
    outside = {name for name in seen if not name.startswith("trellis")} - {*sys.stdlib_module_names, "triton", "vllm"}
    named = {canonicalize_name(Requirement(line).name) for line in requirements(PYPROJECT, ["vllm"])}
    providers = packages_distributions()
    missing = {name for name in outside if not {canonicalize_name(one) for one in providers[name]} & named}
    assert len(outside) > 8
    assert missing == set()
    assert {"s3fs", "jinja2", "vllm"} <= named


def test_every_extra_is_looked_at() -> None:
    looked_at = {extra for case in CASES for extra in case.extras} | {"vllm"}
    assert set(PROJECT["optional-dependencies"]) - looked_at == {
        "all",  # the others
        "dev",  # what these tests run in
        "quantized",  # transformers imports it, with `train`, on CUDA
    }
