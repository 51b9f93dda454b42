"""`trellis admin verify-isolation`: negative tests on the running installation."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trellis.cli.commands import command
from trellis.cli.output import document, print_json, print_table
from trellis.cli.state import State

if TYPE_CHECKING:
    from trellis.isolation import Finding, Report

_MARKS = {"PASSED": ("✓", "green"), "FAILED": ("✗", "red"), "SKIPPED": ("–", "yellow")}


@command("verify-isolation")
@click.option(
    "--training/--no-training", default=True, help="Tune a small adapter for each tenant first.  [default: training]"
)
@click.option(
    "--metrics-url", "metrics_urls", multiple=True, metavar="URL", help="Where metrics are read; may be given again."
)
@click.option(
    "--patience", type=click.FloatRange(1), default=600.0, show_default=True, help="Seconds that their jobs may take."
)
@click.option(
    "--flood-seconds", type=click.FloatRange(1), default=8.0, show_default=True, help="How long one makes noise."
)
@click.option("--most-slowdown", type=click.FloatRange(1), default=10.0, show_default=True,
              help="How many times as long the other's calls may take then, and a second.")  # fmt: skip
@click.option(
    "--report",
    "path",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write the report here, as JSON.",
)
@click.option(
    "--check", "only", multiple=True, metavar="ID", help="Only this check, or group of them; may be given again."
)
@click.pass_obj
def verify_isolation(
    state: State,
    /,
    training: bool,
    metrics_urls: tuple[str, ...],
    patience: float,
    flood_seconds: float,
    most_slowdown: float,
    path: Path | None,
    only: tuple[str, ...],
) -> None:
    """Try whether one tenant can see, change, slow down or outspend another, with two that are made for it and deleted again.

    Needs a platform admin's key. Ends with code 1 if a check failed or the tenants could not be deleted, 0 if all passed that
    could be tried.
    """
    from trellis.isolation import Options, verify

    options = Options(training, metrics_urls, patience, flood_seconds, most_slowdown, only)
    report = verify(state.client, options, lambda _: None if state.json else _say_begun(_), lambda f: _say(state, f))
    whole = {**document(report), "isolated": report.isolated}
    if path is not None:
        path.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    if state.json:
        print_json(whole)
    else:
        _print(report)
    if not report.isolated or report.left_behind:
        raise click.exceptions.Exit(1)


def _say_begun(text: str) -> None:
    click.echo(f"… {text}", err=True)


def _say(state: State, finding: "Finding") -> None:
    if not state.json:
        mark, colour = _MARKS[finding.outcome.value]
        click.echo(f"{click.style(mark, fg=colour)} {finding.check}: {finding.detail}", err=True)


def _print(report: "Report") -> None:
    rows = [(f.outcome.value, f.check, f.title, str(f.tries), f"{f.seconds:.1f}") for f in report.findings]
    print_table(("outcome", "check", "what must hold", "calls", "seconds"), rows)
    for finding in report.findings:
        for line in finding.evidence:
            click.echo(f"{finding.check}: {line}")
    for line in report.left_behind:
        click.echo(f"Left behind: {line}", err=True)
    counts = {name: sum(f.outcome.value == name for f in report.findings) for name in _MARKS}
    said = ", ".join(f"{count} {name.lower()}" for name, count in counts.items() if count)
    click.echo(f"{'Isolated' if report.isolated else 'NOT isolated'}: {said}.")
