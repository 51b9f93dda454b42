"""One platform for all of these tests, and two tenants who tune on it from the first moment on."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.e2e import lines, tuning
from tests.e2e.patience import until as wait_until
from tests.e2e.platform import Platform
from tests.e2e.tuning import Watching

import trellis
from trellis.client.types import Deployment, JobEvent, Role

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them start Ray; whichever comes first waits for what is shared."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.ray)
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def until() -> Callable[..., object]:
    """Waits until something is found; see patience.py."""
    return wait_until


@pytest.fixture(scope="session")
def platform(request: pytest.FixtureRequest) -> Iterator[Platform]:
    """A running platform; it has ended, with every process, when the session has."""
    with tempfile.TemporaryDirectory(prefix="trellis-e2e-") as folder:
        found = Platform(Path(folder))
        try:
            found.up()
            yield found
        finally:
            if request.session.testsfailed:
                print(found.last_words())  # noqa: T201 - the folder goes, and pytest shows this beside the failure
            found.end()


@dataclass
class Team:
    """A tenant with one tuned, deployed adapter that the alias `boxes` is pointed at."""

    name: str
    answers: tuple[str, ...]
    client: trellis.Client
    watching: Watching
    job: trellis.TuningJob | None = None
    events: list[JobEvent] = field(default_factory=list)

    @property
    def done(self) -> trellis.TuningJob:
        assert self.job is not None
        return self.job

    def says(self, number: int, model: str = tuning.DATASET) -> trellis.Generation:
        """What the model says is in a box, greedily."""
        return self.client.generate(model, lines.question(number), temperature=0.0, max_tokens=12)


@pytest.fixture(scope="session")
def admin(platform: Platform) -> Iterator[trellis.Client]:
    with platform.client(platform.admin_key) as client:
        yield client


@pytest.fixture(scope="session")
def submitted(platform: Platform, admin: trellis.Client) -> Iterator[tuple[Team, Team]]:
    """Two tenants whose jobs are under way."""
    teams = [
        _enter(platform, admin, "globex", lines.COLOURS),
        _enter(platform, admin, "initech", lines.FOODS),
    ]
    yield teams[0], teams[1]
    for team in teams:
        team.client.close()


def _enter(platform: Platform, admin: trellis.Client, name: str, answers: tuple[str, ...]) -> Team:
    admin.tenants.create(name)
    key = admin.api_keys.create(f"tenants/{name}", role=Role.TENANT_ADMIN).secret
    client = platform.client(key, name)
    tuning.upload(client, lines.chat_lines(answers))
    job = client.jobs.create(tuning.DATASET, alias=tuning.DATASET, deploy=True, supervised=tuning.SPEC)
    return Team(name, answers, client, Watching(client, job.name), job)


@pytest.fixture(scope="session")
def teams(submitted: tuple[Team, Team], platform: Platform) -> tuple[Team, Team]:
    """Both, with their jobs done and their adapters deployed."""
    for team in submitted:
        team.events = team.watching.finish()
        team.job = team.client.jobs.wait(team.done.name, timeout=60)
        adapter = team.client.adapters.deploy(team.done.adapter, timeout=60)
        assert adapter.deployment is Deployment.DEPLOYED, adapter.deployment_message + platform.last_words()
    return submitted


@pytest.fixture(scope="session")
def globex(teams: tuple[Team, Team]) -> Team:
    return teams[0]


@pytest.fixture(scope="session")
def initech(teams: tuple[Team, Team]) -> Team:
    return teams[1]
