"""In pip's place while an image is laid out: what pip would fetch is linked from the environment that the tests run in.

`--requirement FILE` and requirements link distributions with all that they need; `--prefix FOLDER .` makes the real wheel
and unpacks it. Run by the image's own interpreter, `LINKED_FROM` names the site-packages to link from.
"""

import os
import subprocess
import sys
import sysconfig
import zipfile
from argparse import ArgumentParser
from collections import Counter
from importlib.metadata import Distribution, distributions
from pathlib import Path

SOURCE = Path(os.environ["LINKED_FROM"])
sys.path.append(str(SOURCE))
from packaging.requirements import Requirement  # noqa: E402
from packaging.utils import canonicalize_name  # noqa: E402

INSTALLED = {canonicalize_name(d.metadata["Name"]): d for d in distributions(path=[str(SOURCE)])}


def main() -> None:
    """As `pip install` with the options that the Dockerfiles use."""
    parser = ArgumentParser()
    parser.add_argument("verb", choices=["install"])
    parser.add_argument("--constraint", action="append", default=[])
    parser.add_argument("--requirement", action="append", default=[])
    parser.add_argument("--index-url")
    parser.add_argument("--no-deps", action="store_true")
    parser.add_argument("--prefix")
    parser.add_argument("names", nargs="*")
    options = parser.parse_intermixed_args()
    for file in options.constraint:
        Path(file).read_text()
    if options.prefix:
        _install_wheel(Path(options.prefix), options.names)
        return
    lines = [line for file in options.requirement for line in Path(file).read_text().splitlines()]
    _link(_closure([*lines, *options.names]))


def _closure(lines: list[str]) -> list[Distribution]:
    """All distributions that the requirements need, with their extras, one after the other."""
    waiting, seen = [Requirement(line) for line in lines if line], set()
    found: dict[str, Distribution] = {}
    while waiting:
        wanted = waiting.pop()
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found[name] = distribution = INSTALLED[name]  # KeyError: the lock's environment lacks it
        assert wanted.specifier.contains(distribution.version, prereleases=True), wanted
        for line in distribution.requires or []:
            needed = Requirement(line)
            markers = [{"extra": extra} for extra in ("", *extras)]
            if needed.marker is None or any(needed.marker.evaluate(marker) for marker in markers):
                needed.marker = None
                if canonicalize_name(needed.name) in INSTALLED or not _comes_with_cuda(needed.name):
                    waiting.append(needed)
    return list(found.values())


def _comes_with_cuda(name: str) -> bool:
    return name.startswith(("nvidia-", "cuda-", "triton"))


def _link(wanted: list[Distribution]) -> None:
    """Link what each has; folders as a whole where they belong to one distribution alone."""
    target = Path(sysconfig.get_paths()["purelib"])
    owners = Counter(top for d in INSTALLED.values() for top in {f.parts[0] for f in d.files or []})
    for distribution in wanted:
        for name in {f.parts[0] if owners[f.parts[0]] == 1 else str(f) for f in distribution.files or []}:
            if name.startswith(("..", "/")):
                _link_script(SOURCE / name)
                continue
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            if not (target / name).is_symlink() and (SOURCE / name).exists():
                (target / name).symlink_to(SOURCE / name)
        for file in distribution.files or []:
            if file.parts[0] == "..":
                _link_script(SOURCE / file)


def _link_script(script: Path) -> None:
    """A console script, started by the image's interpreter."""
    if script.parent.name != "bin" or not script.is_file():
        return
    lines = script.read_bytes().split(b"\n", 1)
    made = Path(sysconfig.get_paths()["scripts"], script.name)
    made.write_bytes(f"#!{sys.executable}\n".encode() + lines[1] if lines[0].startswith(b"#!") else script.read_bytes())
    made.chmod(0o755)


def _install_wheel(prefix: Path, names: list[str]) -> None:
    assert names == ["."], names
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", "../wheel"]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = Path("../wheel").glob("*.whl")
    purelib = prefix / Path(sysconfig.get_paths()["purelib"]).relative_to(sys.prefix)
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(purelib)
    scripts = prefix / "bin"
    scripts.mkdir(parents=True)
    program = "import sys\nfrom trellis.cli.main import main\nsys.exit(main())\n"
    (scripts / "trellis").write_text(f"#!{sys.executable}\n{program}")
    (scripts / "trellis").chmod(0o755)


if __name__ == "__main__":
    main()
