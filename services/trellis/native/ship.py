"""`python -m trellis.native.ship FOLDER`: compile the kernels for every kind of this machine's CPUs, as an image is built.

Where TRELLIS_NATIVE_LIBRARIES names that folder, the kernels are loaded from it and no compiler is asked for.
"""

import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from trellis.native.build import BuildError, compile_library, find_compiler, sources_digest
from trellis.native.targets import Target, library_name, targets_of


def ship(folder: Path, targets: Sequence[Target]) -> list[Path]:
    """Compile a library for each target into the folder, which is made; raises BuildError."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    compiler = find_compiler(os.environ)
    made = []
    for target in targets:
        path = folder / library_name(target, sources_digest())
        # However long it takes: no replica waits for it, and images are built on busy machines and emulated CPUs.
        compile_library(compiler, target.flags, path, seconds=None)
        path.chmod(0o755)
        made.append(path)
    return made


def main(arguments: Sequence[str]) -> int:
    """Ship into the one folder that is named; the process's exit status."""
    if len(arguments) != 1:
        print("Usage: python -m trellis.native.ship FOLDER", file=sys.stderr)  # noqa: T201
        return 2
    targets = targets_of(platform.machine())
    if not targets:
        print(f"No kernels are shipped for {platform.machine()}: PyTorch's own operations serve.", file=sys.stderr)  # noqa: T201
        return 0
    try:
        for path in ship(Path(arguments[0]), targets):
            print(path)  # noqa: T201
    except BuildError as error:
        print(f"trellis.native.ship: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
