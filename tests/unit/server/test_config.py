from pathlib import Path

import pytest

from trellis.engine_options import EngineOptions
from trellis.server.config import _READERS, OPTIONS, Address, ConfigError, ServerConfig
from trellis.server.domain.trainer_options import TrainerOptions
from trellis.server.scheduler.snapshot import SchedulerOptions
from trellis.server.secret import derived, read_or_make_secret

REQUIRED = {
    "TRELLIS_DATABASE_URL": "sqlite+aiosqlite:///x.db",
    "TRELLIS_STORE_URL": "objects",
    "TRELLIS_SECRET_FILE": "secret",
    "TRELLIS_RAY_DASHBOARD_URL": "http://127.0.0.1:8265",
}


def test_every_setting_can_be_read() -> None:
    assert {*_READERS, *OPTIONS} == set(ServerConfig.__slots__)


def test_settings_come_from_the_environment() -> None:
    config = ServerConfig.from_environment(
        {
            **REQUIRED,
            "TRELLIS_GRPC_ADDRESS": "0.0.0.0:7",
            "TRELLIS_BASE_MODELS": "a=/x,b=org/y",
            "TRELLIS_JOB_CPUS": "2",
        }
    )
    assert config.grpc_address == Address("0.0.0.0", 7)
    assert config.advertised_endpoint == "0.0.0.0:7"
    assert config.base_models == (("a", "/x"), ("b", "org/y"))
    assert config.job_cpus == 2.0


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("TRELLIS_GRPC_ADDRESS", "50051"),
        ("TRELLIS_GRPC_ADDRESS", "host:99999"),
        ("TRELLIS_JOB_CPUS", "many"),
        ("TRELLIS_JOB_CPUS", "nan"),
        ("TRELLIS_SERVE_PORT", "-1"),
        ("TRELLIS_BASE_MODELS", "tiny"),
        ("TRELLIS_LOG_FORMAT", "xml"),
        ("TRELLIS_ENGINE_KIND", "other"),
        ("TRELLIS_ENGINE_PRECISION", "fp8"),
        ("TRELLIS_DATABASE_URL", " "),
    ],
)
def test_a_wrong_setting_is_named(variable: str, text: str) -> None:
    with pytest.raises(ConfigError, match=variable):
        ServerConfig.from_environment({**REQUIRED, variable: text})


def test_jobs_reach_several_servers_only_where_grpc_understands_them() -> None:
    several = "10.0.0.1:50051,10.0.0.2:50051"
    config = ServerConfig.from_environment({**REQUIRED, "TRELLIS_WORKER_ENDPOINT": f"ipv4:{several}"})
    assert config.advertised_endpoint == f"ipv4:{several}"
    with pytest.raises(ConfigError, match="TRELLIS_WORKER_ENDPOINT must be one host:port, or several"):
        ServerConfig.from_environment({**REQUIRED, "TRELLIS_WORKER_ENDPOINT": several})


def test_engines_settings_are_the_engines_options() -> None:
    assert ServerConfig.from_environment(REQUIRED).engine == EngineOptions()
    given = {"TRELLIS_ENGINE_MIN_REPLICAS": "2", "TRELLIS_ENGINE_MAX_REPLICAS": "5", "TRELLIS_ENGINE_GPUS": "1"}
    options = ServerConfig.from_environment({**REQUIRED, **given}).engine
    assert options == EngineOptions(min_replicas=2, max_replicas=5, gpus=1.0)


def test_trainers_settings_are_the_trainers_options() -> None:
    assert ServerConfig.from_environment(REQUIRED).trainer == TrainerOptions()
    given = {"TRELLIS_TRAINER_CPUS": "2.5", "TRELLIS_TRAINER_MAX_JOBS": "3", "TRELLIS_TRAINER_RANK_ROWS": "512"}
    options = ServerConfig.from_environment({**REQUIRED, **given}).trainer
    assert options == TrainerOptions(cpus=2.5, max_jobs=3, rank_rows=512)
    assert options.environment() == {"TRELLIS_TRAINER_RANK_ROWS": "512"}


@pytest.mark.parametrize(
    ("variable", "text"),
    [("WORKERS", "0"), ("MAX_JOBS", "0"), ("MAX_REPLICAS", "0"), ("CPUS", "0"), ("IDLE_SECONDS", "soon")],
)
def test_trainers_settings_must_be_possible(variable: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"TRELLIS_TRAINER_.*{variable}" if text == "soon" else "TRELLIS_TRAINER_…"):
        ServerConfig.from_environment({**REQUIRED, f"TRELLIS_TRAINER_{variable}": text})


def test_the_schedulers_settings_are_its_options() -> None:
    assert ServerConfig.from_environment(REQUIRED).scheduler == SchedulerOptions()
    given = {"TRELLIS_SCHEDULER_HALF_LIFE_SECONDS": "60", "TRELLIS_SCHEDULER_MAX_PREEMPTIONS": "0"}
    options = ServerConfig.from_environment({**REQUIRED, **given}).scheduler
    assert options == SchedulerOptions(half_life_seconds=60.0, max_preemptions=0)
    with pytest.raises(ConfigError, match=r"TRELLIS_SCHEDULER_….*half_life_seconds must be more than 0"):
        ServerConfig.from_environment({**REQUIRED, "TRELLIS_SCHEDULER_HALF_LIFE_SECONDS": "0"})


def test_engines_settings_must_go_together() -> None:
    with pytest.raises(ConfigError, match=r"TRELLIS_ENGINE_….*min_replicas 3 must be 1 to max_replicas 1"):
        ServerConfig.from_environment({**REQUIRED, "TRELLIS_ENGINE_MIN_REPLICAS": "3"})


def test_the_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    first = read_or_make_secret(path)
    assert read_or_make_secret(path) == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert derived(first, "a") != derived(first, "b")


def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("short")
    with pytest.raises(ValueError, match="32 characters"):
        read_or_make_secret(tmp_path / "secret")
