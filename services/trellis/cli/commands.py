"""The kinds of commands: groups that load lazily, and commands that take the shared options anywhere."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from trellis.cli.state import State


@dataclass(frozen=True, slots=True)
class Lazy:
    """Where a command is, and its help in one line, so that a list of commands loads none of them."""

    module: str
    name: str
    help: str

    def load(self) -> click.Command:
        """Import the command. Raises ClickException when this installation is without it."""
        try:
            command: click.Command = getattr(importlib.import_module(self.module), self.name)
        except ModuleNotFoundError as error:
            missing = f"{error.name} is not installed"
            raise click.ClickException(f"{missing}; this command needs: pip install 'trellis[all]'") from error
        return command


def shared_options() -> list[click.Parameter]:
    """The options that every command takes, before and after its name."""

    def option(flag: str, field: str, text: str, kind: Any = None, metavar: str | None = None) -> click.Option:
        def keep(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
            if value is not None:
                setattr(context.ensure_object(State), field, value)

        return click.Option(
            [flag, f"shared_{field}"], expose_value=False, callback=keep, type=kind, help=text, metavar=metavar
        )

    path = click.Path(dir_okay=False, path_type=Path)
    return [
        option("--format", "output", "How to answer.  [default: table]", click.Choice(["table", "json"])),
        option("--endpoint", "endpoint", "The server, as HOST:PORT or https://HOST.", metavar="ENDPOINT"),
        option("--api-key-file", "api_key_file", "The file that holds the API key.", path),
        option("--profile", "profile", "The profile of the configuration file.", metavar="NAME"),
        option("--tenant", "tenant", "The tenant of short names.", metavar="TENANT"),
    ]


class Command(click.Command):
    """A command that takes the shared options too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        taken = {flag for parameter in self.params for flag in parameter.opts}
        self.params += [option for option in shared_options() if not taken & set(option.opts)]


class Group(click.Group):
    """A group of a noun's commands."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += shared_options()


Group.group_class = Group


class LazyGroup(Group):
    """The root: knows its commands by name and imports the one that is called."""

    def __init__(self, *args: Any, lazy: Mapping[str, Lazy], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the table's order."""
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of this name."""
        found = self.lazy.get(cmd_name)
        return found.load() if found else super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in self.lazy.items()])


def group(name: str) -> Callable[[Callable[..., Any]], Group]:
    """Make a function the group of a noun."""
    return click.group(name=name, cls=Group)


def command(name: str) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command that stands alone."""
    return click.command(name=name, cls=Command)
