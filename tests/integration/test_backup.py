"""The commands of docs/runbooks/backup-and-restore.md, with PostgreSQL's own programs: what comes back, and what does not."""

import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from tests.contract.control.platform import SETTINGS
from tests.database_rows import contents
from tests.job_cluster_fake import FakeJobCluster
from tests.postgres import SUPERUSER, PostgresServer
from tests.server_fakes import (
    LINES,
    World,
    admit,
    collected,
    lay_adapter,
    make_world,
    prepare,
    submit,
    upload,
    validate,
)

from trellis.artifacts import Manifest
from trellis.server.app import adapters, attempts, completion, progress, tuning_jobs, usage
from trellis.server.app.attempts import Process
from trellis.server.app.completion import Completion
from trellis.server.app.pages import PageQuery
from trellis.server.app.progress import AttemptReport, CommittedCheckpoint
from trellis.server.app.store_check import check_store
from trellis.server.app.usage import Span
from trellis.server.check_store.__main__ import main as check_main
from trellis.server.control.context import ControlContext
from trellis.server.control.sweep import SweepObjects
from trellis.server.control.watch import WatchAttempts
from trellis.server.domain.statement import Statement
from trellis.server.domain.tuning_job import JobState, MetricPoint, Progress, TuningJob
from trellis.server.store.engine import create_engine_for
from trellis.server.store.migrations import look
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory
from trellis.server.world import ThreadedObjects
from trellis_jobs.checkpoint import Checkpoints

pytestmark = pytest.mark.postgres

CHECKPOINT = "step-00000002-attempt-1"


@dataclass
class Installation:
    """One with a history, its backup, and what is made of that."""

    server: PostgresServer
    folder: Path
    names: list[str]
    engines: list[AsyncEngine]

    def world(self, name: str, folder: Path) -> World:
        engine = create_engine_for(self.server.url(name))
        self.engines.append(engine)
        return make_world(SqlUnitOfWorkFactory(engine), folder)

    def new_database(self, template: str = "template0") -> str:
        self.names.append(self.server.create_database(template))
        return self.names[-1]

    def run(self, program: str, database: str, *words: str) -> None:
        """One of PostgreSQL's programs, on a database of the server."""
        url = f"postgresql://{SUPERUSER}@/{database}?host={self.server.socket.parent}"
        command: list[str | Path] = [self.server.program(program), f"--dbname={url}", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.fixture
async def installation(
    postgres_server: PostgresServer, postgres_template: str, tmp_path: Path
) -> AsyncIterator[Installation]:
    found = Installation(postgres_server, tmp_path, [], [])
    found.new_database(postgres_template)
    yield found
    for engine in found.engines:
        await engine.dispose()
    for name in found.names:
        postgres_server.drop_database(name)


async def live(world: World, folder: Path) -> tuple[TuningJob, TuningJob]:
    """A job that has ended with an adapter, and one that runs and has a checkpoint."""
    context = world.context
    base = await prepare(context, "acme", "globex")
    await validate(context, await upload(context, "acme"), base)
    done = await submit(context, "acme", display_name="Done", alias="tenants/acme/aliases/support")
    _, caller = await admit(context, done)
    work = await attempts.start_attempt(context, caller, Process("1", "host", 1))
    world.clock.advance(60)
    await completion.complete_attempt(context, caller, Completion(lay_adapter(context, work, folder / "adapter")))
    runs = await submit(context, "acme", display_name="Runs")
    _, caller = await admit(context, runs)
    work = await attempts.start_attempt(context, caller, Process("2", "host", 2))
    made = Checkpoints(context.store, work.checkpoint_prefix, attempt=1).commit(2, {"state.json": b"12345"})
    points = [MetricPoint(2, {"train_loss": 0.5}, context.now())]
    checkpoint = CommittedCheckpoint(2, made.key, made.size_bytes)
    report = AttemptReport(1, Progress(2, 10, "training"), points, (), [checkpoint], "line\n")
    await progress.report_attempt(context, caller, report)
    return done, runs


async def statement(world: World) -> Statement:
    now = world.clock.now()
    return await usage.get_statement(world.context, "tenants/acme", Span(now - timedelta(days=1), now))


async def faults(world: World, *, digests: bool = True) -> list[str]:
    found = check_store(world.context.units, world.store, digests=digests)
    return [f"{fault.named.key.rpartition('/')[2]} {fault.why}" async for fault in found if fault]


async def test_what_was_backed_up_comes_back(installation: Installation, tmp_path: Path) -> None:
    world = installation.world(installation.names[0], tmp_path / "first")
    done, runs = await live(world, tmp_path)
    before, owed = await contents(installation.engines[0]), await statement(world)
    dump = str(tmp_path / "trellis.dump")
    installation.run("pg_dump", installation.names[0], "--format=custom", "--no-owner", f"--file={dump}")
    late = await upload(world.context, "acme", LINES * 2, "late")  # after the dump, before the objects are copied
    shutil.copytree(tmp_path / "first/objects", tmp_path / "second/objects")

    name = installation.new_database()
    words = ("--no-owner", "--exit-on-error", "--single-transaction", dump)
    installation.run("pg_restore", name, *words)
    assert (await look(installation.server.url(name))).fits
    again = installation.world(name, tmp_path / "second")
    again.clock.advance((world.clock.now() - again.clock.now()).total_seconds())
    assert await contents(installation.engines[1]) == before
    assert await statement(again) == owed
    assert owed.entry_count
    assert await faults(again) == []
    await reads_its_own(again, done)
    await ends_lawfully(again, runs)
    await sweeps(again, late.key)

    # A database that is newer than the objects.
    adapter = (await adapters.get_alias(again.context, "tenants/acme/aliases/support")).adapter_digest
    found = await adapters.get_adapter(again.context, f"tenants/acme/adapters/{adapter[:24]}")
    again.store.put_bytes(f"{found.key}/adapter_config.json", b"{}")
    weights = again.store.read_bytes(f"{found.key}/adapter_model.safetensors")
    again.store.put_bytes(f"{found.key}/adapter_model.safetensors", weights[:-1] + b"?")
    size = f"adapter_config.json has 2 bytes instead of {manifest_size(found.manifest_json)}"
    other = "adapter_model.safetensors has other bytes than those of its sha256"
    assert await faults(again, digests=False) == [size]
    assert sorted(await faults(again)) == [size, other]
    await finds_what_a_checkpoint_lacks(again, f"tenants/acme/jobs/{runs.uid}/checkpoints/{CHECKPOINT}")


def manifest_size(text: str) -> int:
    return Manifest.from_json(text).files["adapter_config.json"].size


async def finds_what_a_checkpoint_lacks(world: World, key: str) -> None:
    async def fault(*, digests: bool = True) -> str:
        return next((found for found in await faults(world, digests=digests) if found.startswith(CHECKPOINT)), "")

    world.store.put_bytes(f"{key}/state.json", b"12346")
    assert await fault(digests=False) == ""
    assert await fault() == f"{CHECKPOINT} has other bytes than those of its sha256: state.json"
    world.store.put_bytes(f"{key}/state.json", b"1234")
    assert await fault(digests=False) == f"{CHECKPOINT} has 4 bytes instead of 5"
    world.store.put_bytes(f"{key}/state.json", b"12345")
    assert await fault() == ""
    world.store.put_bytes(f"{key}/COMMIT", b"{}")
    assert await fault() == f"{CHECKPOINT} has a COMMIT that can't be read"
    world.store.delete(f"{key}/COMMIT")
    assert await fault(digests=False) == f"{CHECKPOINT} has no COMMIT"
    world.store.delete_prefix(key)
    assert await fault(digests=False) == f"{CHECKPOINT} is missing"


async def reads_its_own(world: World, done: TuningJob) -> None:
    jobs = (await tuning_jobs.list_tuning_jobs(world.context, "tenants/acme", (), PageQuery())).items
    assert {job.display_name: job.state for job in jobs} == {"Done": JobState.SUCCEEDED, "Runs": JobState.RUNNING}
    digest = next(job.adapter_digest for job in jobs if job.name == done.name)
    async for file in adapters.download_adapter(world.context, f"tenants/acme/adapters/{digest[:24]}"):
        assert sum(len(piece) for piece in await collected(file.pieces)) == file.facts.size


def control(world: World) -> ControlContext:
    context = world.context
    settings = replace(SETTINGS, installation="restored")
    objects = ThreadedObjects(world.store)
    return ControlContext(context.units, context.clock, context.ids, FakeJobCluster(), world.engines, objects, settings)


async def ends_lawfully(world: World, runs: TuningJob) -> None:
    """Its process is of the old installation, and is not heard of here: it is tried again, from its checkpoint."""
    world.clock.advance(3600)
    await WatchAttempts(control(world)).once()
    job = await tuning_jobs.get_tuning_job(world.context, runs.name)
    assert job.state is JobState.QUEUED
    world.context.ids._count = 1000  # type: ignore[attr-defined]
    _, caller = await admit(world.context, job)
    work = await attempts.start_attempt(world.context, caller, Process("3", "other", 3))
    assert (work.attempt, work.resume_step) == (2, 2)
    assert world.store.read_bytes(f"{work.resume_key}/state.json") == b"12345"


async def sweeps(world: World, late: str) -> None:
    """What was uploaded after the dump has no row, and goes."""
    assert world.store.exists(late)
    step = SweepObjects(control(world))
    await step.once()
    await step.once()
    assert not world.store.exists(late)
    assert await faults(world) == []


def test_the_command(
    postgres_server: PostgresServer,
    postgres_template: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check_main([]) == 2
    monkeypatch.setenv("TRELLIS_STORE_URL", str(tmp_path / "objects"))
    monkeypatch.setenv("TRELLIS_DATABASE_URL", postgres_server.url(postgres_template))
    assert check_main(["--digests"]) == 0
    assert "0 objects are named" in capsys.readouterr().out
    monkeypatch.setenv("TRELLIS_DATABASE_URL", f"postgresql+psycopg://trellis@/x?host={tmp_path}")
    assert check_main([]) == 1
    assert "Could not look" in capsys.readouterr().err
