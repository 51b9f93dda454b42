"""What docs/runbooks and deploy/README.md tell to type can be typed: programs, options, files and settings are there."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tests.unit.deploy.test_compose import COMPOSE, KNOWN

from trellis.cli.main import trellis

ROOT = Path(__file__).parents[3]
PAGES = [
    *(ROOT / f"docs/runbooks/{name}.md" for name in ("upgrade", "backup-and-restore", "secrets")),
    ROOT / "deploy/README.md",
]
_SETTING = re.compile(r"(TRELLIS_[A-Z_]+)=")
OF_CLIENTS = {"TRELLIS_ENDPOINT", "TRELLIS_API_KEY"}


def lines(page: Path) -> Iterator[list[str]]:
    """The commands of a page: those in blocks, and those between backticks that begin with a program of ours."""
    text = page.read_text()
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            for part in re.split(r" (?:&&|\||>) ", line):
                yield shlex.split(part, comments=True)
    for inline in re.findall(r"`((?:trellis|python -m|helm|docker compose|scripts/|deploy/)[^`]*)`", text):
        if len(words := shlex.split(inline)) > 1:
            yield words


COMMANDS = [(page.name, words) for page in PAGES for words in lines(page) if words]


def of(program: str) -> list[tuple[str, list[str]]]:
    return [(page, words) for page, words in COMMANDS if words[0] == program]


def test_pages_have_commands() -> None:
    assert len(of("trellis")) >= 8
    assert len(of("helm")) >= 4
    assert {page for page, _ in COMMANDS} == {page.name for page in PAGES}


@pytest.mark.parametrize(
    ("page", "words"), of("trellis"), ids=lambda value: " ".join(value) if isinstance(value, list) else value
)
def test_a_command_of_ours_is_there_with_its_options(page: str, words: list[str]) -> None:
    command: click.Command = trellis
    rest = words[1:]
    while isinstance(command, click.Group) and rest:
        found = command.get_command(click.Context(command), rest[0])
        assert found is not None, f"{page}: there is no {' '.join(words)}"
        command, rest = found, rest[1:]
    assert not isinstance(command, click.Group), f"{page}: {' '.join(words)} is a group"
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.partition("=")[0] for word in rest if word.startswith("-")}
    assert used <= known, page


def test_modules_can_be_run() -> None:
    for page, words in of("python"):
        assert words[1] == "-m"
        assert importlib.util.find_spec(words[2]), f"{page}: {words}"
        done = subprocess.run([sys.executable, "-m", words[2], "--help"], capture_output=True, text=True, check=True)
        for option in (word for word in words[3:] if word.startswith("--")):
            assert option in done.stdout, f"{page}: {' '.join(words)}"


def test_files_of_ours_are_there() -> None:
    for page, words in COMMANDS:
        for word in words:
            if word.startswith(("scripts/", "deploy/", "helm/")) and not word.startswith("deploy/secrets"):
                assert (ROOT / word).exists(), f"{page}: {word}"


def test_helm_knows_what_it_is_asked() -> None:
    helm = shutil.which("helm", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if helm is None:
        pytest.skip("helm is not installed")
    for page, words in of("helm"):
        done = subprocess.run([helm, words[1], "--help"], capture_output=True, text=True, check=True)
        for option in (word.partition("=")[0] for word in words[2:] if word.startswith("--")):
            assert f"{option} " in done.stdout, f"{page}: {' '.join(words)}"


def test_services_of_compose_are_named_rightly() -> None:
    for page, words in of("docker"):
        if "compose" in words and {"up", "exec", "run"} & set(words):
            verb = next(index for index, word in enumerate(words) if word in {"up", "exec", "run"})
            named = [word for word in words[verb + 1 :] if not word.startswith("-")]
            services = named if words[verb] == "up" else named[:1]
            assert set(services) <= set(COMPOSE["services"]), f"{page}: {services}"


def test_settings_are_the_server_s() -> None:
    for page in PAGES:
        for name in _SETTING.findall(page.read_text()):
            of_compose = name in (ROOT / "deploy/compose.yaml").read_text()
            assert name in KNOWN | OF_CLIENTS or of_compose, f"{page.name}: {name}"
