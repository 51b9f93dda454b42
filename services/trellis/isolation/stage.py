"""Two tenants that are made for the checks, with some of everything, and what deletes them again."""

import contextlib
import io
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from trellis.client import Client
from trellis.client.types import LoraSpec, Role, TrainingSettings, TuningJob
from trellis.errors import TrellisError
from trellis.isolation.verdict import SkippedError
from trellis.isolation.wire import Wire

Tell = Callable[[str], None]
_LINES = 24
_SETTINGS = TrainingSettings(
    lora=LoraSpec(rank=4), epochs=1, max_steps=2, batch_size=4, learning_rate=1e-3, max_evaluation_lines=1
)
_ALIAS = "canary"
_DATASETS = ("canary", "second")


@dataclass
class Party:
    """One of the tenants."""

    tenant: str
    client: Client
    """As its tenant admin."""
    key: str
    """The tenant admin's."""
    key_id: str
    canary: str
    """A word that stands in all of its data and nowhere else."""
    ids: dict[str, str] = field(default_factory=dict)
    """What it has, by the variable of a name's pattern: dataset, version, tuning_job, …"""
    why_untuned: str = "no job was run"
    """Why it has no adapter; empty if it has one."""

    @property
    def parent(self) -> str:
        """Its resource name."""
        return f"tenants/{self.tenant}"

    @property
    def alias(self) -> str:
        """The model that it calls."""
        return f"{self.parent}/aliases/{_ALIAS}"

    @property
    def adapter(self) -> str:
        """Its adapter's name."""
        return f"{self.parent}/adapters/{self.ids['adapter']}"

    def data(self) -> bytes:
        """Lines with its word."""
        lines = (f"What is box {n}?" for n in range(_LINES))
        return "".join(
            json.dumps({"prompt": ask, "completion": f"It holds {self.canary}."}) + "\n" for ask in lines
        ).encode()

    def names(self) -> Mapping[str, str]:
        """What of it must not be heard of by others: its data, its tenant's name, its ids."""
        return {"a word of its data": self.canary, "its name": self.tenant, "its key": self.key}


class Stage:
    """What the checks work with: `owner` has what `intruder` wants."""

    def __init__(self, admin: Client, *, with_training: bool, patience: float, tell: Tell) -> None:
        self.admin, self.patience, self.tell = admin, patience, tell
        self.run_id = secrets.token_hex(4)
        self._with_training = with_training
        self.owner, self.intruder = Party("", admin, "", "", ""), Party("", admin, "", "", "")
        self.wire = Wire(admin.settings)
        self.left_behind: list[str] = []
        self._silent: dict[str, str] = {}
        """Models that do not answer, and why: they are asked once."""
        self._made: list[str] = []

    def __enter__(self) -> Self:
        try:
            self.owner, self.intruder = self._party("a"), self._party("b")
            for party in (self.owner, self.intruder):
                self._furnish(party)
            if self._with_training:
                self._tune()
        except BaseException:
            self.clear()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    @property
    def base_model(self) -> str:
        """The name of the base that the parties' adapters are on, or the first there is."""
        return self._base

    def require_answers(self, model: str) -> None:
        """Raise SkippedError if the model does not answer its owner; an engine may take some time to wake up."""
        if model not in self._silent:
            try:
                self.owner.client.generate(model, prompt="Hello.", max_tokens=1, timeout=120)
                self._silent[model] = ""
            except TrellisError as error:
                self._silent[model] = f"{model} does not answer: {error}"
        if self._silent[model]:
            raise SkippedError(self._silent[model])

    def clear(self) -> None:
        """Delete both tenants with all that they have."""
        for tenant in self._made:
            try:
                self.admin.tenants.delete(f"tenants/{tenant}", force=True)
            except TrellisError as error:
                self.left_behind.append(f"tenants/{tenant}: {error}")
        self._made.clear()
        for party in (self.owner, self.intruder):
            if party.client is not self.admin:
                party.client.close()
        self.wire.__exit__()

    def _party(self, letter: str) -> Party:
        tenant = f"isolation-{self.run_id}-{letter}"
        self.admin.tenants.create(tenant, display_name="made by verify-isolation, and deleted again")
        self._made.append(tenant)
        made = self.admin.api_keys.create(f"tenants/{tenant}", role=Role.TENANT_ADMIN, display_name="verify-isolation")
        settings = self.admin.settings
        client = Client(
            settings.endpoint,
            made.secret,
            tenant=tenant,
            tls=(settings.ca_file or True) if settings.tls else False,
            certificate=(settings.certificate_file, settings.certificate_key_file)
            if settings.certificate_file
            else None,
        )
        return Party(
            tenant, client, made.secret, made.api_key.name.rpartition("/")[2], f"canary-{secrets.token_hex(8)}"
        )

    def _furnish(self, party: Party) -> None:
        for dataset in _DATASETS:
            version = party.client.datasets.upload(
                io.BytesIO(party.data()), dataset=dataset, filename=f"{dataset}.jsonl"
            )
            party.ids |= {"version": version.name.rpartition("/")[2], "dataset": _DATASETS[0], "api_key": party.key_id}
        bases = list(self.admin.base_models.list())
        if not bases:
            raise RuntimeError("The installation has no base model; register one first.")
        self._base = next((base for base in bases if base.is_default), bases[0]).name

    def _tune(self) -> None:
        jobs: list[tuple[Party, TuningJob]] = []
        for party in (self.owner, self.intruder):
            self.tell(f"Tuning an adapter for {party.tenant} …")
            with self._noting(party):
                job = party.client.jobs.create(_DATASETS[0], alias=_ALIAS, deploy=True, supervised=_SETTINGS)
                party.ids["tuning_job"] = job.name.rpartition("/")[2]
                jobs.append((party, job))
        for party, job in jobs:
            with self._noting(party):
                done = party.client.jobs.wait(job.name, timeout=self.patience)
                party.client.adapters.deploy(done.adapter, timeout=self.patience)
                steps = [checkpoint.step for checkpoint in party.client.jobs.checkpoints(job.name)]
                party.ids |= {"adapter": done.adapter.rpartition("/")[2], "alias": _ALIAS}
                party.ids |= {"checkpoint": str(steps[-1])} if steps else {}
                party.why_untuned = ""

    @contextlib.contextmanager
    def _noting(self, party: Party) -> Iterator[None]:
        try:
            yield
        except TrellisError as error:
            party.why_untuned = f"no adapter could be tuned for it within {self.patience:g} s: {error}"
