"""`trellis adapters …`."""

import re
from pathlib import Path

import click

from trellis.cli.commands import group
from trellis.cli.output import deleted, print_json, print_many, print_one, said
from trellis.cli.state import State
from trellis.client.types import Adapter, Deployment

_NAME_HELP = "NAME is an adapter, by its full name or its 24 characters, or an alias."


@group("adapters")
def adapters() -> None:
    """What tuning made: deploy, download, import, alias."""


def _adapter(state: State, name: str) -> str:
    """The adapter that a name means: itself, or what an alias points at."""
    if "/adapters/" in name or re.fullmatch(r"[0-9a-f]{24}", name):
        return name
    return state.client.aliases.get(name).adapter


@adapters.command("list")
@click.pass_obj
def list_(state: State) -> None:
    """List adapters, newest first."""
    columns = ("name", "display_name", "deployment", "base_model", "rank", "tuning_job", "create_time")
    print_many(state.client.adapters.list(), columns, as_json=state.json)


@adapters.command("get", epilog=_NAME_HELP)
@click.argument("name")
@click.pass_obj
def get(state: State, name: str) -> None:
    """Show an adapter with its manifest."""
    print_one(state.client.adapters.get(_adapter(state, name)), as_json=state.json)


@adapters.command("import")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--base-model", required=True, help="The base model that it was made for.")
@click.option("--display-name", default="", help="What people call it.")
@click.pass_obj
def import_(state: State, folder: Path, base_model: str, display_name: str) -> None:
    """Import FOLDER, an adapter in PEFT format."""
    made = state.client.adapters.import_(folder, base_model=base_model, display_name=display_name)
    print_one(made, as_json=state.json)


@adapters.command("deploy", epilog=_NAME_HELP)
@click.argument("name")
@click.option("--wait/--no-wait", default=True, help="Wait until it can be called.  [default: wait]")
@click.pass_obj
def deploy(state: State, name: str, wait: bool) -> None:
    """Make an adapter callable."""
    adapter = state.client.adapters.deploy(_adapter(state, name), wait=wait)
    _print_short(state, adapter)
    if adapter.deployment is Deployment.FAILED:
        raise click.exceptions.Exit(1)


@adapters.command("undeploy", epilog=_NAME_HELP)
@click.argument("name")
@click.pass_obj
def undeploy(state: State, name: str) -> None:
    """Make an adapter no longer callable."""
    _print_short(state, state.client.adapters.undeploy(_adapter(state, name)))


def _print_short(state: State, adapter: Adapter) -> None:
    if state.json:
        print_json(adapter)
    else:
        print_many([adapter], ("name", "deployment", "deployment_message"), as_json=False)


@adapters.command("download", epilog=_NAME_HELP)
@click.argument("name")
@click.option("--output", "-o", "folder", type=click.Path(file_okay=False, path_type=Path), default=Path())
@click.pass_obj
def download(state: State, name: str, folder: Path) -> None:
    """Write an adapter's files into a folder, in PEFT format with its manifest."""
    files = state.client.adapters.download(_adapter(state, name), folder)
    if state.json:
        print_json({"files": [str(file) for file in files]})
    else:
        click.echo("\n".join(map(str, files)))


@adapters.command("delete")
@click.argument("name")
@click.pass_obj
def delete(state: State, name: str) -> None:
    """Delete an adapter, by its own name."""
    state.client.adapters.delete(name)
    deleted(name, as_json=state.json)


@adapters.command("share", epilog=_NAME_HELP)
@click.argument("name")
@click.argument("tenant")
@click.pass_obj
def share(state: State, name: str, tenant: str) -> None:
    """Let another tenant call an adapter; its files stay yours."""
    print_one(state.client.adapters.share(_adapter(state, name), tenant), as_json=state.json)


@adapters.command("unshare", epilog=_NAME_HELP)
@click.argument("name")
@click.argument("tenant")
@click.pass_obj
def unshare(state: State, name: str, tenant: str) -> None:
    """Let another tenant call an adapter no longer."""
    whole = _adapter(state, name)
    state.client.adapters.unshare(whole, tenant)
    if state.json:
        print_json({"adapter": whole, "unshared": tenant})
    said(f"{tenant} can't call {whole} any more.", as_json=state.json)


@adapters.command("shares", epilog=_NAME_HELP)
@click.argument("name")
@click.pass_obj
def shares(state: State, name: str) -> None:
    """List with whom an adapter is shared."""
    columns = ("tenant", "adapter", "create_time")
    print_many(state.client.adapters.shares(_adapter(state, name)), columns, as_json=state.json)


@adapters.command("shared")
@click.pass_obj
def shared(state: State) -> None:
    """List the adapters of others that you may call."""
    columns = ("name", "display_name", "deployment", "base_model", "rank")
    print_many(state.client.adapters.shared(), columns, as_json=state.json)


@adapters.group("alias")
def alias() -> None:
    """Names for adapters, which may move."""


@alias.command("set")
@click.argument("name")
@click.argument("adapter")
@click.pass_obj
def set_alias(state: State, name: str, adapter: str) -> None:
    """Point an alias at an adapter, or at what another alias points at."""
    print_one(state.client.aliases.set(name, _adapter(state, adapter)), as_json=state.json)


@alias.command("get")
@click.argument("name")
@click.pass_obj
def get_alias(state: State, name: str) -> None:
    """Show an alias."""
    print_one(state.client.aliases.get(name), as_json=state.json)


@alias.command("list")
@click.pass_obj
def list_aliases(state: State) -> None:
    """List the aliases."""
    print_many(state.client.aliases.list(), ("name", "adapter", "update_time"), as_json=state.json)


@alias.command("delete")
@click.argument("name")
@click.pass_obj
def delete_alias(state: State, name: str) -> None:
    """Delete an alias; its adapter stays."""
    state.client.aliases.delete(name)
    deleted(name, as_json=state.json)
