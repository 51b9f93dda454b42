"""An image laid out: each stage a folder, COPY as docker copies, RUN as the shell runs it, with stand-ins for few programs."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dockerfile_parse import DockerfileParser

from tests.images.ignored import Context

ROOT: Final = Path(__file__).parents[2]
_HERE: Final = Path(__file__).parent
_OURS: Final = re.compile(r"(?<![\w/.])/(opt|code|build|bases|var/lib/trellis)(?=[/\s\"':]|$)")
"""Folders that the Dockerfiles make; every other absolute path is the base image's."""
_NOTHING: Final = ("apt-get", "groupadd", "useradd", "rm")
"""Programs that change the base image, not what we put into it."""


@dataclass(slots=True)
class Stage:
    """One stage of a Dockerfile, its file system a folder."""

    folder: Path
    workdir: str = "/"
    variables: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    user: str = ""
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def inside(self, path: str) -> Path:
        """Where a path of the image lies on this machine."""
        return self.folder / path.removeprefix("/")

    def located(self, text: str) -> str:
        """The text with each of our folders named by where it lies on this machine."""
        return _OURS.sub(lambda found: f"{self.folder}/{found[1]}", text)

    @property
    def environment(self) -> dict[str, str]:
        """What a container of this stage has, and nothing else."""
        values = {name: self.located(value) for name, value in self.variables.items()}
        if values.get("HOME") == "/tmp":
            values["HOME"] = values["TMPDIR"] = str(self.inside("/tmp"))
        return values


class Image:
    """A Dockerfile that was followed from top to bottom; `last` is the stage that becomes the image."""

    def __init__(self, dockerfile: Path, scratch: Path, **arguments: str) -> None:
        self._context = Context(ROOT)
        self._scratch = scratch
        self._given = arguments
        self._tools = _tools(scratch / "tools")
        self.bases: list[str] = []
        self.stages: dict[str, Stage] = {}
        self._globals: dict[str, str] = {}
        for step in DockerfileParser(cache_content=True, fileobj=io.BytesIO(dockerfile.read_bytes())).structure:
            if step["instruction"] != "COMMENT":
                getattr(self, f"_{step['instruction'].lower()}")(step["value"])

    @property
    def last(self) -> Stage:
        return list(self.stages.values())[-1]

    def _arg(self, value: str) -> None:
        name, _, default = value.partition("=")
        chosen = self._given.get(name, default or self._globals.get(name, ""))
        (self.last.arguments if self.stages else self._globals)[name] = chosen

    def _from(self, value: str) -> None:
        base, _, name = (word.strip() for word in value.partition(" AS "))
        base = _filled(base, self._globals)
        stage = Stage(self._scratch / name)
        if base in self.stages:
            shutil.copytree(self.stages[base].folder, stage.folder, symlinks=True)
            before = self.stages[base]
            stage.workdir, stage.variables = before.workdir, dict(before.variables)
        else:
            self.bases.append(base)
            stage.inside("/tmp").mkdir(parents=True)
            stage.variables["PATH"] = "/usr/local/bin:/usr/bin:/bin"
        self.stages[name] = stage

    def _workdir(self, value: str) -> None:
        self.last.workdir = value
        self.last.inside(value).mkdir(parents=True, exist_ok=True)

    def _env(self, value: str) -> None:
        for pair in shlex.split(value):
            name, _, text = pair.partition("=")
            self.last.variables[name] = _filled(text, self.last.variables)

    def _label(self, value: str) -> None:
        for pair in shlex.split(value):
            name, _, text = pair.partition("=")
            self.last.labels[name] = _filled(text, self.last.arguments)

    def _copy(self, value: str) -> None:
        words = shlex.split(value)
        options = dict(word.removeprefix("--").partition("=")[::2] for word in words if word.startswith("--"))
        *sources, destination = [word for word in words if not word.startswith("--")]
        into = self.last.inside(str(Path(self.last.workdir, destination)))
        for source in sources:
            if "from" in options:
                shutil.copytree(self.stages[options["from"]].inside(source), into, symlinks=True, dirs_exist_ok=True)
            else:
                self._copy_from_context(source, into, many=destination.endswith("/"))

    def _copy_from_context(self, source: str, into: Path, *, many: bool) -> None:
        """A folder's content into the folder; a file to the path, or below it if it ends with a slash."""
        for file in self._context.files(source):
            below = file.relative_to(source) if (ROOT / source).is_dir() else Path(file.name if many else "")
            (into / below).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, into / below)

    def _run(self, value: str) -> None:
        stage = self.last
        environment = {**stage.arguments, **stage.environment, "LINKED_FROM": sysconfig.get_paths()["purelib"]}
        environment["PATH"] = f"{self._tools}:{environment['PATH']}"
        command = stage.located(value).replace("-m pip ", f"{_HERE / 'pip_stand_in.py'} ")
        folder = stage.inside(stage.workdir)
        folder.mkdir(parents=True, exist_ok=True)
        shell = ["/bin/sh", "-ec", command]
        done = subprocess.run(
            shell, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, f"RUN {value}\n{done.stdout}\n{done.stderr}"

    def _user(self, value: str) -> None:
        self.last.user = value

    def _expose(self, value: str) -> None:
        """Says nothing that a file system shows."""

    def _cmd(self, value: str) -> None:
        self.last.command = json.loads(value)

    def _healthcheck(self, value: str) -> None:
        self.last.health = json.loads(value.partition("CMD")[2])


def _filled(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda found: values.get(found[1], ""), text)


def _tools(folder: Path) -> Path:
    """Stand-ins, first on the PATH of every RUN: a venv without pip, no changes of the base image, kernels of no content."""
    folder.mkdir(parents=True)
    compiler = 'case "$1" in --version) echo none;; *) while [ "$1" != -o ]; do shift; done; : >"$2";; esac\n'
    scripts = {
        "python": f'case "$1 $2" in "-m venv") exec {sys.executable} -m venv --without-pip "$3";; esac\n'
        f'exec {os.path.realpath(sys.executable)} "$@"\n',
        "g++": compiler,
        # Only root may give a folder to another user.
        "install": '[ "$(/usr/bin/id -u)" = 0 ] && exec /usr/bin/install "$@"\n'
        'while [ "$1" != --mode ]; do shift; done; exec /usr/bin/install --directory "$@"\n',
        **dict.fromkeys(_NOTHING, "exit 0\n"),
    }
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}")
        (folder / name).chmod(0o755)
    return folder
