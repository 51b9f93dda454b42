"""`trellis admin record-queue`: past and present jobs as a trace that `trellis admin simulate` replays."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from trellis.cli.commands import command
from trellis.cli.output import print_json, said
from trellis.cli.state import State
from trellis.client.types import JobState, Placement, Tenant, TuningJob

_QUOTA = ("accelerators", "borrowing_limit", "lending_limit", "running_jobs")


@command("record-queue")
@click.argument("file", type=click.Path(dir_okay=False, writable=True, path_type=Path))
@click.option("--accelerators", type=click.FloatRange(0, min_open=True), required=True, help="What the platform has.")
@click.option("--trainer-accelerators", type=float, default=1.0, show_default=True, help="What a shared trainer holds.")
@click.option("--trainer-jobs", type=click.IntRange(1), default=16, show_default=True, help="Jobs it has at once.")
@click.pass_obj
def record_queue(state: State, /, file: Path, **platform: float) -> None:
    """Write the jobs of all tenants, with their quotas and weights, to be replayed with `admin simulate --trace`.

    Jobs that succeeded are taken to run as long as they did, pauses between attempts included; others that have not ended as long as
    they are estimated to. Jobs that failed or were cancelled are left out. Names are kept; nothing of their data is.
    """
    tenants, jobs = list(state.client.tenants.list()), list(state.client.jobs.list(tenant="-"))
    lines = [{"kind": "platform", **platform}, *map(_tenant_line, tenants), *job_lines(jobs)]
    with file.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(line) + "\n" for line in lines)
    written = {"file": str(file), "tenants": len(tenants), "jobs": len(lines) - len(tenants) - 1}
    if state.json:
        print_json(written)
    else:
        said(f"Wrote {written['jobs']} jobs of {written['tenants']} tenants to {file}.", as_json=False)


def _tenant_line(tenant: Tenant) -> dict[str, Any]:
    quota = asdict(tenant.quota)
    found = {name: quota[name] for name in _QUOTA if quota[name] is not None}
    cohort = {"cohort": tenant.cohort} if tenant.cohort else {}
    name = tenant.name.removeprefix("tenants/")
    return {"kind": "tenant", "tenant": name, "weight": tenant.training_weight, **cohort, **found}


def job_lines(jobs: Iterable[TuningJob]) -> Iterator[Mapping[str, Any]]:
    """A line for each job of which it is known how long it takes, by their create times."""
    known = [
        (job.create_time, seconds, job)
        for job in jobs
        if job.create_time is not None and (seconds := _seconds(job)) is not None
    ]
    if not known:
        return
    begin = min(create_time for create_time, _, _ in known)
    for create_time, seconds, job in sorted(known, key=lambda one: (one[0], one[2].name)):
        yield _job_line(job, (create_time - begin).total_seconds(), seconds)


def _job_line(job: TuningJob, submit: float, seconds: float) -> Mapping[str, Any]:
    name = job.name.removeprefix("tenants/")
    line: dict[str, Any] = {"kind": "job", "job": name, "tenant": name.partition("/")[0], "submit": submit}
    line |= {"seconds": seconds, "priority": job.priority}
    if job.estimate is not None and job.estimate.duration is not None:
        line["estimate"] = job.estimate.duration.total_seconds()
    if job.placement is Placement.DISTRIBUTED and job.estimate is not None and job.estimate.accelerators:
        return line | {"accelerators": job.estimate.accelerators}
    return line | {"base": job.base_model.removeprefix("baseModels/")}


def _seconds(job: TuningJob) -> float | None:
    """How long it ran, or is expected to; None where that says nothing of how long it would."""
    if job.state is JobState.SUCCEEDED:
        return _between(job.start_time, job.end_time)
    expected = None if job.estimate is None or job.state.ended else job.estimate.duration
    return None if expected is None else max(1.0, expected.total_seconds())


def _between(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else max(1.0, (end - start).total_seconds())
