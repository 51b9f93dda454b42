"""Builds everything: the only place that knows what is behind each port."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import grpc
from sqlalchemy.ext.asyncio import AsyncEngine

from trellis.objects import ObjectStore
from trellis.server.app.bell import Bell, in_state
from trellis.server.app.call_gate import CallGate
from trellis.server.app.context import AppSettings, Context
from trellis.server.app.hosts import StandingClusters
from trellis.server.app.key_uses import KeyUses
from trellis.server.app.outlooks import Outlooks
from trellis.server.app.report_pace import ReportPace
from trellis.server.app.waiting import Pause
from trellis.server.clusters.serve import EngineSettings
from trellis.server.config import ConfigError, ServerConfig
from trellis.server.control.admit import AdmitJobs
from trellis.server.control.board import KeepBoard
from trellis.server.control.context import DUTY, ControlContext, ControlSettings
from trellis.server.control.deploy import DeployAdapters
from trellis.server.control.export import MakeExports, ReapExports
from trellis.server.control.extend import LOOK_SECONDS, ExtendHolds
from trellis.server.control.keep_clusters import KeepClusters
from trellis.server.control.key_uses import WriteKeyUses
from trellis.server.control.launch import LaunchJobs
from trellis.server.control.launch_trainers import LaunchTrainers
from trellis.server.control.loop import ControlLoop, Step
from trellis.server.control.measure_budgets import MeasureBudgets
from trellis.server.control.measure_queue import MeasureQueue
from trellis.server.control.metrics import MeasureJobs, MeasureTrainers
from trellis.server.control.one_server import OneServer
from trellis.server.control.prune import Prune
from trellis.server.control.queue_view import QueueView
from trellis.server.control.reap import ReapOrphans, ReapRuns
from trellis.server.control.reap_trainers import ReapTrainers
from trellis.server.control.stop import StopJobs
from trellis.server.control.storage import MeterStorage
from trellis.server.control.sweep import SweepObjects
from trellis.server.control.validate import ValidateDatasets
from trellis.server.control.watch import WatchAttempts
from trellis.server.control.watch_starts import WatchStarts
from trellis.server.control.watch_trainers import WatchTrainers
from trellis.server.control.watchdog import WatchSteps
from trellis.server.domain.prices import FREE, Prices
from trellis.server.domain.stop import Graces
from trellis.server.domain.tuning_job import ENDED, STOPPING, JobState
from trellis.server.hosting import Hosts, hosts_for
from trellis.server.oidc.issuers import IssuerError, read_issuers
from trellis.server.oidc.verify import JwtVerifier
from trellis.server.price_file import read_prices
from trellis.server.rpc.health import ServerHealth
from trellis.server.rpc.server import build_grpc_server, make_health
from trellis.server.secret import derived, read_or_make_secret
from trellis.server.store.engine import create_engine_for
from trellis.server.store.metrics import forget, measure
from trellis.server.store.unit_of_work import SqlUnitOfWorkFactory
from trellis.server.world import RandomIds, SystemClock, ThreadedObjects
from trellis.tracing import passed_on

_WATCH_SECONDS = 0.25
"""How often a stream of events looks for new ones."""
_DUTY_ALONE = timedelta(minutes=10)
"""Of the only server, which has nobody to give way to: a lease that is renewed is a write to the disk."""
_CLAIM_SECONDS = 0.1
"""How often a trainer that waits for jobs has the database looked at."""


@dataclass(frozen=True, slots=True)
class Platform:
    """A built server that does not run yet."""

    config: ServerConfig
    database: AsyncEngine
    context: Context
    pause: Pause
    health: ServerHealth
    server: grpc.aio.Server
    loops: tuple[ControlLoop, ...]
    hosts: Hosts

    async def close(self) -> None:
        """Closes the connections."""
        await self.hosts.close()
        forget(self.database)
        await self.database.dispose()


def build(config: ServerConfig) -> Platform:
    """Everything, over the settings; the database must have been migrated."""
    secret = read_or_make_secret(config.secret_file)
    database = create_engine_for(config.database_url)
    measure(database)
    store = ObjectStore.open(config.store_url)
    hosts = hosts_for(config, _engine_settings(config, secret))
    bell = Bell()
    units, clock, ids = SqlUnitOfWorkFactory(database, bell.ring), SystemClock(), RandomIds()
    pause = Pause(_WATCH_SECONDS)
    lease = timedelta(seconds=config.lease_seconds)
    graces = Graces(leave=timedelta(seconds=config.stop_grace_seconds))
    prices = read_prices(config.prices_file) if config.prices_file else FREE
    settings = AppSettings(
        max_upload_bytes=config.max_upload_bytes,
        capacity_cpus=config.capacity_cpus,
        capacity_gpus=config.capacity_gpus,
        job_cpus=config.job_cpus,
        job_gpus=config.job_gpus,
        tenant_running_limit=config.tenant_running_limit,
        lease=lease,
        start_timeout=timedelta(seconds=config.start_timeout_seconds),
        graces=graces,
        server_secret=_attempts_secret(secret),
        trainers=config.trainer,
        prices=prices,
    )
    gate = CallGate(lambda seconds: pause.of(seconds)())
    control = ControlContext(
        units,
        clock,
        ids,
        hosts.cluster,
        hosts.engines,
        ThreadedObjects(store),
        _control_settings(config, secret, lease, prices),
        apart=hosts.attempts if hosts.attempts is not hosts.cluster else None,
        ends=hosts.ends,
    )
    context = Context(
        units,
        clock,
        ids,
        store,
        hosts.engines,
        pause,
        settings,
        pause.of(_CLAIM_SECONDS),
        tokens=_tokens(config),
        outlooks=Outlooks(QueueView(control).look, clock),
        gate=gate,
        pace=ReportPace(config.reports_per_second, lease),
    )
    servicer = make_health()
    loops = control_loops(control, store, context.key_uses, context.pace)
    if (standing := hosts.standing) is not None:
        loops += _kubernetes_loops(control, standing)
    for hear in (context.jobs.ring, context.trainers.ring, *(loop.hear for loop in loops)):
        bell.listen(hear)
    return Platform(
        config=config,
        database=database,
        context=context,
        pause=pause,
        health=servicer,
        server=build_grpc_server(context, servicer),
        loops=loops,
        hosts=hosts,
    )


def control_loops(
    control: ControlContext, store: ObjectStore, uses: KeyUses, pace: ReportPace | None = None
) -> tuple[ControlLoop, ...]:
    """The loops, each with the seconds between two rounds, and what wakes it sooner."""
    moves_the_queue = {*map(in_state, (JobState.QUEUED, JobState.PAUSED, *ENDED)), "reports", "trainers"}
    admit = AdmitJobs(control)
    return (
        # Two, so that a large file does not hold up everybody's small ones.
        ControlLoop(ValidateDatasets(control, store), 1.0, wakes_on=["reports"]),
        ControlLoop(ValidateDatasets(control, store), 1.0, wakes_on=["reports"]),
        ControlLoop(admit, 1.0, wakes_on=moves_the_queue),
        _by_one_server(control, lambda guarded: KeepBoard(guarded, admit.decided), 1.0),
        ControlLoop(LaunchJobs(control), 1.0, wakes_on=[in_state(JobState.STARTING)]),
        ControlLoop(LaunchTrainers(control), 1.0, wakes_on=["trainers"]),
        ControlLoop(WatchAttempts(control), 2.0),
        ControlLoop(WatchTrainers(control), 2.0),
        ControlLoop(StopJobs(control), 1.0, wakes_on=map(in_state, STOPPING)),
        ControlLoop(WatchSteps(control), 15.0),
        ControlLoop(ReapRuns(control), 2.0),
        ControlLoop(ReapTrainers(control), 2.0),
        _by_one_server(control, ReapOrphans, 30.0),
        _by_one_server(control, SweepObjects, 600.0),
        _by_one_server(control, Prune, 3600.0),
        _by_one_server(control, DeployAdapters, 1.0, wakes_on=["adapters"]),
        ControlLoop(MakeExports(control, store), 1.0, wakes_on=["exports"]),
        ControlLoop(ReapExports(control), 10.0),
        ControlLoop(MeasureQueue(control), 10.0),
        ControlLoop(MeasureJobs(control, pace), 5.0),
        ControlLoop(MeasureTrainers(control), 5.0),
        ControlLoop(MeasureBudgets(control), 60.0),
        ControlLoop(WriteKeyUses(control, uses), 30.0),
        _by_one_server(control, ExtendHolds, LOOK_SECONDS),
        _by_one_server(control, MeterStorage, 30.0),
    )


def _kubernetes_loops(control: ControlContext, standing: StandingClusters) -> tuple[ControlLoop, ...]:
    """What only clusters that come and go need."""
    return (
        _by_one_server(control, lambda guarded: KeepClusters(guarded, standing), 10.0),
        _by_one_server(control, WatchStarts, 5.0),
    )


def _by_one_server(
    control: ControlContext, step: Callable[[ControlContext], Step], interval: float, wakes_on: Iterable[str] = ()
) -> ControlLoop:
    """A loop of which one server at a time does the rounds. Who holds the lease renews it in each of them."""
    length = max(control.settings.duty, timedelta(seconds=2.5 * interval))
    leased = OneServer(control, step(control).name, step, length)
    return ControlLoop(leased, interval, wakes_on=wakes_on, at_end=leased.leave)


def _engine_settings(config: ServerConfig, secret: bytes) -> EngineSettings:
    return EngineSettings(
        store_url=config.store_url,
        secret=derived(secret, "engines"),
        http_host=config.serve_host,
        http_port=config.serve_port,
        options=config.engine,
        environment=_traced(),
    )


def _tokens(config: ServerConfig) -> JwtVerifier | None:
    if config.oidc_file is None:
        return None
    try:
        return JwtVerifier(read_issuers(config.oidc_file))
    except IssuerError as error:
        raise ConfigError(f"Of TRELLIS_OIDC_FILE, {error}") from None


def _worker_ca(config: ServerConfig) -> str:
    """Read once: a job has it from its start to its end."""
    return Path(config.tls.worker_ca_file).read_text(encoding="ascii") if config.tls.worker_ca_file else ""


def _traced() -> tuple[tuple[str, str], ...]:
    """By which jobs and engines export their spans; OpenTelemetry reads its variables itself, so they are no settings."""
    return tuple(passed_on(os.environ).items())


def _attempts_secret(secret: bytes) -> bytes:
    return derived(secret, "attempts").encode()


def _control_settings(config: ServerConfig, secret: bytes, lease: timedelta, prices: Prices) -> ControlSettings:
    return ControlSettings(
        worker_endpoint=config.advertised_endpoint,
        worker_ca=_worker_ca(config),
        server_secret=_attempts_secret(secret),
        installation=derived(secret, "installation")[:8],
        python=config.job_python,
        capacity_cpus=config.capacity_cpus,
        capacity_gpus=config.capacity_gpus,
        job_cpus=config.job_cpus,
        job_gpus=config.job_gpus,
        tenant_running_limit=config.tenant_running_limit,
        lease=lease,
        start_timeout=timedelta(seconds=config.start_timeout_seconds),
        graces=Graces(leave=timedelta(seconds=config.stop_grace_seconds)),
        trainers=config.trainer,
        scheduler=config.scheduler,
        prices=prices,
        step_timeout=timedelta(seconds=config.step_timeout_seconds),
        environment=_traced(),
        always_on=config.always_on,
        duty=_DUTY_ALONE if config.is_alone else DUTY,
    )
