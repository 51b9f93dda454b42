"""`trellis datasets …`."""

from pathlib import Path

import click

from trellis.cli.commands import group
from trellis.cli.output import deleted, document, print_json, print_many, print_one, said
from trellis.cli.report_view import show_errors, show_report
from trellis.cli.state import State
from trellis.cli.transfer import transfer_bar
from trellis.client import check_dataset
from trellis.client.types import DatasetVersion, DatasetVersionState, FileFormat

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_VERSION_HELP = "NAME is a dataset (its newest version), or DATASET@SHA256."


@group("datasets")
def datasets() -> None:
    """Upload data, and read the reports on it."""


file_format_option = click.option(
    "--file-format",
    type=click.Choice(["jsonl", "csv", "parquet"]),
    help="How the file is laid out.  [default: told by its name]",
)


def _layout(chosen: str | None) -> FileFormat:
    return FileFormat(chosen.upper()) if chosen else FileFormat.UNSPECIFIED


@datasets.command("upload")
@click.argument("file", type=_FILE)
@click.option("--dataset", required=True, help="The dataset; made if there is none.")
@click.option("--base-model", default="", help="The base model to count tokens for.")
@file_format_option
@click.option("--check/--no-check", default=True, help="Check the file here before it is sent.  [default: check]")
@click.option("--wait/--no-wait", default=True, help="Wait for the report.  [default: wait]")
@click.pass_obj
def upload(
    state: State, file: Path, dataset: str, base_model: str, file_format: str | None, check: bool, wait: bool
) -> None:
    """Upload FILE as a version of a dataset; ends with code 1 if it can't be trained on."""
    with transfer_bar(file.name, quiet=state.json) as progress:
        version = state.client.datasets.upload(
            file,
            dataset=dataset,
            base_model=base_model,
            format=_layout(file_format),
            check=check and file.suffix != ".parquet",
            wait=wait,
            progress=progress,
        )
    print_one(version, as_json=state.json)
    _judge(state, version)


def _judge(state: State, version: DatasetVersion) -> None:
    if version.state is DatasetVersionState.INVALID:
        said(f"It can't be trained on. See why: trellis datasets report {version.name}", as_json=state.json)
        raise click.exceptions.Exit(1)


@datasets.command("report", epilog=_VERSION_HELP)
@click.argument("name")
@click.option("--base-model", default="", help="Count for this base model.  [default: that of the upload]")
@click.option("--max-errors", default=10_000, show_default=True, help="Show at most so many errors.")
@click.pass_obj
def report(state: State, name: str, base_model: str, max_errors: int) -> None:
    """Show what was found in a version; ends with code 1 if it can't be trained on."""
    found = state.client.datasets.report(name, base_model=base_model)
    if state.json:
        print_json({**document(found), "errors": document(found.errors[:max_errors])})
    else:
        show_report(found, most_errors=max_errors)
    if not found.valid:
        raise click.exceptions.Exit(1)


@datasets.command("check")
@click.argument("file", type=_FILE)
@file_format_option
@click.pass_obj
def check(state: State, file: Path, file_format: str | None) -> None:
    """Check FILE on this machine, without a server; ends with code 1 if something is wrong."""
    found = check_dataset(file, format=_layout(file_format))
    if state.json:
        print_json(found)
    elif found.valid:
        click.echo(f"{found.filename}: {found.valid_line_count:,} lines of {found.kind}, nothing wrong.")
    else:
        click.echo(f"{found.filename}: {found.error_count:,} errors in {found.line_count:,} lines.")
        show_errors(found.errors, found.error_count)
    if not found.valid:
        raise click.exceptions.Exit(1)


@datasets.command("create")
@click.argument("dataset_id")
@click.option("--display-name", default="", help="What people call it.")
@click.pass_obj
def create(state: State, dataset_id: str, display_name: str) -> None:
    """Create an empty dataset; `upload` creates one too."""
    print_one(state.client.datasets.create(dataset_id, display_name=display_name), as_json=state.json)


@datasets.command("list")
@click.pass_obj
def list_(state: State) -> None:
    """List the datasets."""
    columns = ("name", "display_name", "update_time", "latest_version")
    print_many(state.client.datasets.list(), columns, as_json=state.json)


@datasets.command("get")
@click.argument("name")
@click.pass_obj
def get(state: State, name: str) -> None:
    """Show a dataset, or a version for DATASET@SHA256."""
    datasets_ = state.client.datasets
    whole = "@" in name or "/versions/" in name
    print_one(datasets_.get_version(name) if whole else datasets_.get(name), as_json=state.json)


@datasets.command("versions")
@click.argument("name")
@click.pass_obj
def versions(state: State, name: str) -> None:
    """List a dataset's versions, newest first."""
    columns = ("sha256", "state", "filename", "line_count", "size_bytes", "create_time", "summary")
    print_many(state.client.datasets.list_versions(name), columns, as_json=state.json)


@datasets.command("download", epilog=_VERSION_HELP)
@click.argument("name")
@click.option("--output", "-o", "target", type=click.Path(path_type=Path), default=Path(), help="A file or a folder.")
@click.pass_obj
def download(state: State, name: str, target: Path) -> None:
    """Write a version's file, byte for byte."""
    with transfer_bar(name, quiet=state.json) as progress:
        version = state.client.datasets.download(name, target, progress=progress)
    print_one(version, as_json=state.json)


@datasets.command("delete")
@click.argument("name")
@click.pass_obj
def delete(state: State, name: str) -> None:
    """Delete a dataset with all its versions."""
    state.client.datasets.delete(name)
    deleted(name, as_json=state.json)
