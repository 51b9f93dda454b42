"""deploy/*/Dockerfile by themselves: linted, pinned the way that is documented, and what is promised of every image."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.images.ignored import Context
from tests.images.layout import ROOT

DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted(DEPLOY.glob("*/Dockerfile"))
HEAVY = {"torch", "ray", "transformers", "deepspeed", "peft", "triton"}
INSTALLED = {canonicalize_name(d.metadata["Name"]): d for d in distributions()}

of_each = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)


def instructions(dockerfile: Path) -> str:
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    return "\n".join(lines).replace("\\\n", " ")


@of_each
def test_hadolint_has_nothing_to_say(dockerfile: Path) -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if program is None:
        pytest.skip("hadolint is not installed: PyPI has it for x86-64 Linux only")
    command = [program, "--no-color", "--config", str(DEPLOY / "hadolint.yaml"), str(dockerfile)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_rule_that_is_off_has_its_reason() -> None:
    rules = re.findall(r"^  - ((?:DL|SC)\d+)(.*)$", (DEPLOY / "hadolint.yaml").read_text(), re.MULTILINE)
    assert rules
    assert all(reason.strip().startswith("# ") for _, reason in rules)


@of_each
def test_an_image_is_not_root_and_writes_no_bytecode(dockerfile: Path) -> None:
    last = instructions(dockerfile).rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.+)$", last, re.MULTILINE) == ["1000:1000"]
    assert "PYTHONDONTWRITEBYTECODE=1" in last
    assert "PIP_NO_CACHE_DIR=1" in instructions(dockerfile)
    assert " pip " not in last, "what installs stays in the stages before"


@of_each
def test_an_image_may_run_as_any_user_of_the_group_0(dockerfile: Path) -> None:
    """Who has no name of the files in /etc gets one of the environment; test_any_user.py runs them so."""
    last = instructions(dockerfile).rpartition("\nFROM ")[2]
    assert re.findall(r"^ENV .* USER=(\S+) ", last, re.MULTILINE) == ["trellis"]
    assert re.findall(r"install --directory --owner 1000 --group (\d+) --mode (\d+) ", last) == [("0", "0770")]


@of_each
def test_an_image_says_what_it_is(dockerfile: Path) -> None:
    labels = set(re.findall(r"org\.opencontainers\.image\.([\w.]+)=", instructions(dockerfile)))
    named = {"title", "description", "version", "revision", "created", "source", "licenses", "base.name"}
    assert labels == named
    assert re.findall(r'dev\.trellis\.sbom="([^"]+)"', instructions(dockerfile)) == [
        "attestation; predicate-type=https://spdx.dev/Document"
    ]


@of_each
def test_every_base_image_is_an_argument_with_a_tag(dockerfile: Path) -> None:
    text = instructions(dockerfile)
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE))
    bases = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) - stages
    assert bases == {"${PYTHON_IMAGE}"}
    (default,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", text, re.MULTILINE)
    assert default == images()["PYTHON_IMAGE"].partition("@")[0]


@of_each
def test_no_image_is_fetched_to_read_the_dockerfile(dockerfile: Path) -> None:
    """`# syntax=` names an image that runs in the build, and that deploy/images.env does not pin."""
    assert not re.search(r"^#\s*syntax\s*=", dockerfile.read_text(), re.MULTILINE)


def images() -> dict[str, str]:
    return dict(re.findall(r"^(\w+_IMAGE)=(\S+)$", (DEPLOY / "images.env").read_text(), re.MULTILINE))


def test_images_have_a_tag_that_says_a_version_and_no_digest_that_nobody_asked_for() -> None:
    for name, image in images().items():
        reference, _, digest = image.partition("@")
        assert re.fullmatch(r"[\w.-]+/[\w./-]+:[\w.-]*\d[\w.-]*", reference), f"{name}={image}"
        assert not digest or re.fullmatch(r"sha256:[0-9a-f]{64}", digest), f"{name}={image}"


def printed_requirements(*extras: str) -> list[Requirement]:
    command = [sys.executable, str(DEPLOY / "requirements.py"), *extras]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [Requirement(line) for line in done.stdout.splitlines()]


def needed(requirements: list[Requirement]) -> Iterator[str]:
    """The names of all that pip would install, as the installed distributions say."""
    waiting, seen = [(canonicalize_name(r.name), frozenset(r.extras)) for r in requirements], set()
    while waiting:
        name, extras = one = waiting.pop()
        if one in seen or name not in INSTALLED:
            continue
        seen.add(one)
        yield name
        for line in INSTALLED[name].requires or []:
            further = Requirement(line)
            markers = [{"extra": extra} for extra in ("", *extras)]
            if further.marker is None or any(further.marker.evaluate(marker) for marker in markers):
                waiting.append((canonicalize_name(further.name), frozenset(further.extras)))


def test_the_server_needs_neither_torch_nor_ray() -> None:
    names = set(needed(printed_requirements("server")))
    assert names >= {"sqlalchemy", "grpcio", "kubernetes", "s3fs", "aiobotocore", "psycopg-binary"}
    assert not names & HEAVY
    assert len(names) < 100


def test_the_cluster_needs_both() -> None:
    assert set(needed(printed_requirements("server,ray,train,serve"))) >= HEAVY - {"triton"}


def test_an_extra_that_there_is_not_is_named() -> None:
    command = [sys.executable, str(DEPLOY / "requirements.py"), "sever"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "pyproject.toml has no extra 'sever'.\n"


@pytest.mark.parametrize(
    ("path", "is_held"),
    [
        ("pyproject.toml", True),
        ("services/trellis/native/lora.cpp", True),
        ("services/trellis/__pycache__/names.cpython-311.pyc", False),
        ("deploy/requirements.py", True),
        ("deploy/secrets/database-password", False),
        ("tests/conftest.py", False),
        (".git/config", False),
        (".venv/pyvenv.cfg", False),
    ],
)
def test_the_build_context_holds_what_images_are_made_of(path: str, is_held: bool) -> None:
    assert Context(ROOT).holds(path) == is_held
