"""What went wrong, for people and for programs, and the exit code for it."""

import dataclasses
import json
import sys
import traceback
from typing import Any

import click

from trellis.client import InvalidDataset, ProfileError
from trellis.errors import TrellisError

FAILED, USAGE, INTERRUPTED = 1, 2, 130


def report(error: Exception, *, as_json: bool) -> int:
    """Say it on standard error, and return the exit code."""
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    code = _code(error)
    if as_json:
        click.echo(json.dumps({"error": document(error)}, ensure_ascii=False), err=True)
    else:
        _say(error)
    return code


def _code(error: Exception) -> int:
    if isinstance(error, (click.exceptions.Abort, KeyboardInterrupt)):
        return INTERRUPTED
    return USAGE if isinstance(error, click.UsageError) else FAILED


def document(error: Exception) -> dict[str, Any]:
    """The error for programs."""
    if not isinstance(error, TrellisError):
        return {"status": "", "reason": _reason(error), "message": _message(error)}
    return {
        "status": error.STATUS,
        "reason": error.reason,
        "message": str(error),
        "violations": [{"field": v.field, "description": v.description} for v in error.violations],
        "quota_violations": [dataclasses.asdict(violation) for violation in error.quota_violations],
        "metadata": error.metadata,
        "retry_after": error.retry_after,
        "request_id": error.request_id,
    }


def _reason(error: Exception) -> str:
    if isinstance(error, click.exceptions.Abort):
        return "INTERRUPTED"
    if isinstance(error, click.UsageError):
        return "USAGE"
    return "CONFIG" if isinstance(error, ProfileError) else "LOCAL"


def _message(error: Exception) -> str:
    if isinstance(error, click.exceptions.Abort):
        return "Interrupted."
    if isinstance(error, click.ClickException):
        return error.format_message()
    if isinstance(error, (OSError, ValueError)):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _say(error: Exception) -> None:
    if isinstance(error, click.UsageError):
        error.show(sys.stderr)
    elif isinstance(error, TrellisError):
        _say_trellis(error)
    elif isinstance(error, (click.ClickException, click.exceptions.Abort, OSError, ValueError)):
        click.echo(f"{_red('Error:')} {_message(error)}", err=True)
    else:
        traceback.print_exception(error)
        click.echo(f"{_red('Error:')} this is a fault of this program, not yours.", err=True)


def _say_trellis(error: TrellisError) -> None:
    told = all(violation.description in str(error) for violation in error.violations)
    several = len(error.violations) > 1
    message = f"{len(error.violations)} fields are wrong." if several and told else str(error)
    click.echo(f"{_red('Error:')} {message} [{error.reason}]", err=True)
    for violation in error.violations if several or not told else ():
        click.echo(f"  {violation.field}: {violation.description}", err=True)
    for limit in error.quota_violations:
        if limit.description not in str(error):
            click.echo(f"  {limit.limit}: {limit.description}", err=True)
    if isinstance(error, InvalidDataset):
        from trellis.cli.report_view import show_errors

        show_errors(error.check.errors, error.check.error_count, err=True)
    if error.request_id and error.STATUS in {"INTERNAL", "UNKNOWN"}:
        click.echo(f"  request id: {error.request_id}", err=True)


def _red(text: str) -> str:
    return click.style(text, fg="red", bold=True)
