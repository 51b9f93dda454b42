"""A job's debug bundle: one zip file with all that the API says of it, for somebody who is to find out what went wrong."""

import contextlib
import csv
import io
import json
import platform
import re
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import trellis
from trellis.cli.output import document
from trellis.client import Client
from trellis.client.types import JobEvent, MetricPoint, TuningJob
from trellis.errors import DeadlineExceeded, TrellisError

_SECRETS = (
    re.compile(r"\btr[a-z]{0,2}_[A-Za-z0-9_-]{16,}"),  # keys, tokens and tickets, as Trellis makes them
    re.compile(r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?"),  # JSON web tokens
    re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16})\b"),  # of model hubs and clouds
    re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(r"(?<=://)[^/\s@\"']*:[^/\s@\"']+(?=@)"),  # user and password in an address
    re.compile(r"(?i)(?<=secret_access_key=)[^\s\"'&]+|(?<=session_token=)[^\s\"'&]+|(?<=password=)[^\s\"'&]+"),
)
"""What a process may have printed that nobody else is to read."""
_EVENTS_SECONDS = 5.0
Part = tuple[str, str, Callable[[], str]]
"""A file's name, what it is, and what makes its text."""


def write_bundle(client: Client, name: str, target: Path) -> tuple[str, ...]:
    """Write the bundle, whole or not at all; the names of its files.

    What can't be read, such as the report on a dataset that was deleted, is left out, and the README says why. Raises
    NotFound where there is no such job, and OSError.
    """
    job = client.jobs.get(name)
    files: dict[str, str] = {}
    told: list[str] = []
    for file, meaning, make in _parts(client, job):
        try:
            files[file] = _without_secrets(make(), client)
            told.append(f"{file}\n    {meaning}")
        except TrellisError as error:
            told.append(f"{file} is missing\n    {_without_secrets(str(error), client)}")
    files = {"README.txt": _readme(job, told), **files}
    _write(target, files)
    return tuple(files)


def _parts(client: Client, job: TuningJob) -> Sequence[Part]:
    jobs, name = client.jobs, job.name
    datasets = (
        ("training", job.training_dataset),
        ("validation", job.validation_dataset),
        ("replay", job.replay_dataset),
    )
    # Read once, at the first of the two files that need them.
    points: list[MetricPoint] = []

    def metrics() -> list[MetricPoint]:
        points[:] = points or jobs.metrics(name)
        return points

    return (
        (
            "job.json",
            "The job: its state, its error, its settings, and by which rule each was chosen that was not given.",
            lambda: _json(job),
        ),
        ("events.jsonl", "What happened to it, in order, one JSON object a line.", lambda: _events(client, job)),
        ("metrics.csv", "What was measured, a line for each step.", lambda: _csv(metrics())),
        ("metrics.json", "The same as JSON, with the time of each step.", lambda: _json(metrics())),
        ("log.txt", "What its processes printed.", lambda: "".join(chunk.text for chunk in jobs.logs(name))),
        ("checkpoints.json", "The checkpoints that are kept.", lambda: _json(list(jobs.checkpoints(name)))),
        *(
            (
                f"{use}-report.json",
                f"The report on the {use} dataset, {dataset}, without its previews of lines.",
                lambda dataset=dataset: _report(client, dataset, job.base_model),
            )
            for use, dataset in datasets
            if dataset
        ),
        (
            "versions.json",
            "The versions of this program, of the server and of Python, and the machine this was made on.",
            lambda: _versions(client),
        ),
    )


def _events(client: Client, job: TuningJob) -> str:
    # Watching a job that goes on has no end by itself; what there is comes at once.
    timeout = None if job.state.ended else _EVENTS_SECONDS
    seen: list[JobEvent] = []
    with contextlib.suppress(DeadlineExceeded):
        seen.extend(client.jobs.watch(job.name, timeout=timeout))
    return "".join(json.dumps(document(event), ensure_ascii=False) + "\n" for event in seen)


def _csv(points: Sequence[MetricPoint]) -> str:
    names = list(dict.fromkeys(name for point in points for name in point.values))
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["step", *names])
    writer.writerows([point.step, *(point.values.get(name, "") for name in names)] for point in points)
    return out.getvalue()


def _report(client: Client, dataset: str, base_model: str) -> str:
    report = client.datasets.report(dataset, base_model=base_model, wait=False)
    return _json(replace(report, previews=()))


def _versions(client: Client) -> str:
    versions = {
        "client": trellis.__version__,
        "server": client.server_version or "unknown",
        "python": platform.python_version(),
        "machine": platform.platform(),
    }
    return _json(versions)


def _json(value: Any) -> str:
    return json.dumps(document(value), indent=2, ensure_ascii=False) + "\n"


def _without_secrets(text: str, client: Client) -> str:
    """The text without API keys, tokens and passwords, should one have been printed."""
    key = client.settings.api_key
    text = text.replace(key, "[secret]") if key else text
    for secret in _SECRETS:
        text = secret.sub("[secret]", text)
    return text


def _readme(job: TuningJob, told: Iterable[str]) -> str:
    error = f"\nIts error: {job.error.message} [{job.error.reason or job.error.status}]\n" if job.error else ""
    return (
        f"What Trellis knows of {job.name}, which is {job.state}.\n{error}\n"
        "The files:\n\n"
        + "\n".join(told)
        + "\n\nThere is no API key, no token, no dataset and no weight in this bundle.\n"
    )


def _write(target: Path, files: dict[str, str]) -> None:
    scratch = target.with_name(f".{target.name}.part")
    try:
        with zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in files.items():
                archive.writestr(name, text)
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
