"""The entry: finds the command, and says what went wrong, once, for all of them.

Exit codes: 0 done; 1 it failed; 2 the command line is wrong; 130 interrupted.
"""

import os
import sys
from collections.abc import Sequence

import click

from trellis.cli.commands import Lazy, LazyGroup
from trellis.cli.state import State

_PLATFORM = {
    "up": "Run Trellis on this machine.",
    "down": "End what `trellis up` runs.",
    "status": "Show what runs on this machine.",
    "doctor": "Check whether this machine can run Trellis.",
    "demo": "Tune and call two tenants' adapters, from nothing.",
    "server": "Run the control plane alone.",
}
_NOUNS = {
    "tenants": "Teams that share the platform.",
    "keys": "API keys.",
    "base-models": "Models that adapters are trained on.",
    "trainers": "Processes that train many tenants' jobs.",
    "datasets": "Upload data, and read the reports on it.",
    "jobs": "Tune, watch, and see what was measured.",
    "adapters": "What tuning made: deploy, download, import, alias.",
    "exports": "Whole models to take away.",
    "generate": "Ask a model.",
    "audit": "Who did what to what.",
    "usage": "What was used, what it costs, and the ledger.",
    "admin": "Try out and check a platform.",
    "config": "Profiles: where to call, and as whom.",
    "version": "The version of this program.",
}
COMMANDS = {
    name: Lazy(f"trellis.cli.{name.replace('-', '_')}", name.replace("-", "_"), text)
    for name, text in (_PLATFORM | _NOUNS).items()
}


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def trellis(context: click.Context) -> None:
    """Fine-tune and serve adapters on shared base models.

    The server and the key come from options, from TRELLIS_ENDPOINT and TRELLIS_API_KEY, or from a profile; the key is
    never an argument, for others can see a machine's command lines.
    """
    if context.ensure_object(State).json:
        context.default_map = {name: {"output": "json"} for name in _PLATFORM}  # their own --format comes after


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line and exit."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its own words on lost connections; we say ours
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code."""
    try:
        result = trellis.main(args=list(arguments), prog_name="trellis", standalone_mode=False, obj=State())
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:  # noqa: BLE001 - the one place that says what went wrong
        from trellis.cli.errors import report

        return report(error, as_json=_wants_json(arguments))
    return result if isinstance(result, int) else 0


def _wants_json(arguments: Sequence[str]) -> bool:
    """Whether the last --format is json; read by hand, for the command line may be what is wrong."""
    found = False
    for index, argument in enumerate(arguments):
        if argument == "--format":
            found = list(arguments[index + 1 : index + 2]) == ["json"]
        elif argument.startswith("--format="):
            found = argument == "--format=json"
    return found


if __name__ == "__main__":
    main()
