"""`trellis exports …`."""

from dataclasses import replace
from pathlib import Path

import click

from trellis.cli.commands import group
from trellis.cli.output import cell, deleted, print_json, print_one, print_table, said, size
from trellis.cli.state import State
from trellis.cli.transfer import transfer_bar
from trellis.client.types import Export

_FOLDER = click.Path(file_okay=False, path_type=Path)


@group("exports")
def exports() -> None:
    """Whole models to take away: a base with an adapter merged into it."""


@exports.command("create")
@click.argument("source")
@click.option("--display-name", default="", help="What people call it.")
@click.option("--export-id", default="", help="The last part of its name.  [default: made by the server]")
@click.option("--wait", "wait_for_it", is_flag=True, help="Wait until its files are there.")
@click.option("--download", "folder", type=_FOLDER, default=None, help="Wait, and write its files into this folder.")
@click.pass_obj
def create(
    state: State, source: str, display_name: str, export_id: str, wait_for_it: bool, folder: Path | None
) -> None:
    """Merge SOURCE into its base: an adapter, an alias, or a job's checkpoint by its full name."""
    export = state.client.exports.create(source, display_name=display_name, export_id=export_id)
    if wait_for_it or folder is not None:
        said(f"Asked for {export.name}.", as_json=state.json)
        export = state.client.exports.wait(export.name)
    if folder is not None:
        _download(state, export.name, folder)
    _show(state, export)


@exports.command("list")
@click.pass_obj
def list_(state: State) -> None:
    """List exports, newest first."""
    found = state.client.exports.list()
    if state.json:
        print_json(list(found))
        return
    rows = [
        [one.name, one.state.value, cell(one.source), size(one.size_bytes) if one.files else "-", cell(one.create_time)]
        for one in found
    ]
    print_table(["NAME", "STATE", "SOURCE", "SIZE", "CREATE TIME"], rows)


@exports.command("show")
@click.argument("name")
@click.pass_obj
def show(state: State, name: str) -> None:
    """Show an export with its files."""
    _show(state, state.client.exports.get(name))


@exports.command("wait")
@click.argument("name")
@click.option("--timeout", type=float, default=None, help="Seconds after which to give up.  [default: never]")
@click.pass_obj
def wait(state: State, name: str, timeout: float | None) -> None:
    """Wait until an export's files are there; ends with code 1 if it could not be made."""
    _show(state, state.client.exports.wait(name, timeout=timeout))


@exports.command("download")
@click.argument("name")
@click.option("--output", "-o", "folder", type=_FOLDER, default=None, help="A folder.  [default: the export's id]")
@click.pass_obj
def download(state: State, name: str, folder: Path | None) -> None:
    """Write an export's files into a folder, each checked; what is there already is not sent again."""
    files = _download(state, name, folder or Path(name.rpartition("/")[2]))
    if state.json:
        print_json({"files": [str(file) for file in files]})
    else:
        click.echo("\n".join(map(str, files)))


@exports.command("delete")
@click.argument("name")
@click.pass_obj
def delete(state: State, name: str) -> None:
    """Delete an export with its files; one that is being made is stopped."""
    state.client.exports.delete(name)
    deleted(name, as_json=state.json)


def _download(state: State, name: str, folder: Path) -> tuple[Path, ...]:
    with transfer_bar(folder.name, quiet=state.json) as progress:
        return state.client.exports.download(name, folder, progress=progress)


def _show(state: State, export: Export) -> None:
    if state.json:
        print_json(export)
        return
    print_one(replace(export, files=()), as_json=False)
    if export.files:
        click.echo()
        print_table(["PATH", "SIZE", "SHA256"], [[f.path, size(f.size_bytes), f.sha256] for f in export.files])
