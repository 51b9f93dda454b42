"""All answers on one base model and one kind of GPU, with what does not fit said in a sentence."""

from dataclasses import dataclass

from trellis.sizing.accelerator import Accelerator
from trellis.sizing.price import COMPUTING_EFFICIENCY, READING_EFFICIENCY, Throughput, cost_of_a_million
from trellis.sizing.serving import EngineSize
from trellis.sizing.shape import ModelShape
from trellis.sizing.storage import JobStorage
from trellis.sizing.training import TrainerSize


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be sized."""

    shape: ModelShape
    accelerator: Accelerator
    rank: int = 16
    targets: tuple[str, ...] = ()
    """Linears that adapters change; all where none is named."""
    adapters: int = 64
    """In an engine's bank at once."""
    context: int = 1024
    """Tokens of a call, prompt and answer, on average."""
    answers: int = 32
    """Calls that are answered at once, each with another adapter while there are enough."""
    steps: int = 1000
    dataset_bytes: int = 10_000_000
    hour_price: float = 0.0
    """Of one GPU, in whatever currency; 0 for no costs."""
    reading: float = READING_EFFICIENCY
    computing: float = COMPUTING_EFFICIENCY

    @property
    def engine(self) -> EngineSize:
        """The engine that is asked about."""
        return EngineSize(self.shape, self.accelerator, self.rank, self.adapters, self.context, self.targets)

    @property
    def trainer(self) -> TrainerSize:
        """The trainer that is asked about."""
        return TrainerSize(self.shape, self.accelerator, self.rank, self.targets)

    @property
    def throughput(self) -> Throughput:
        """Of that engine and that trainer."""
        distinct = min(self.answers, self.adapters)
        return Throughput(self.engine, self.trainer, self.answers, distinct, self.reading, self.computing)


Section = dict[str, float | int | str]


def answer(question: Question) -> dict[str, Section]:
    """By section and name: bytes where the name says so, counts, tokens a second, and costs of a million tokens."""
    shape = question.shape
    sections: dict[str, Section] = {
        "model": {
            "parameters": shape.parameters,
            "adapter_parameters": shape.lora_parameters(question.rank, question.targets),
            "base_bytes": question.engine.base_bytes,
        },
        "engine": _engine(question),
        "trainer": _trainer(question),
        "job": _job(question),
        "settings": _settings(question),
    }
    if question.hour_price and question.engine.kv_tokens and question.engine.answers >= question.answers:
        sections["cost_of_a_million_tokens"] = _costs(question)
    return sections


def _engine(question: Question) -> Section:
    engine = question.engine
    if engine.free_bytes <= 0:
        return {"fits": "No: the base alone takes more than the GPU has. An engine is not spread over GPUs."}
    if not engine.kv_tokens:
        return {"fits": "No: the base fits, but beside so many adapters nothing is left for the KV cache."}
    distinct = min(question.answers, question.adapters)
    return {
        "fits": "Yes."
        if engine.answers >= question.answers
        else f"Yes, but for {engine.answers} answers at once only.",
        "row_bytes": engine.row_bytes,
        "adapter_bytes": engine.adapter_bytes,
        "bank_bytes": engine.bank_bytes,
        "kv_bytes_per_token": engine.kv_bytes_per_token,
        "kv_tokens": engine.kv_tokens,
        "answers_with_a_full_context": engine.answers,
        "most_adapters": engine.most_adapters,
        "adapter_overhead": engine.adapter_overhead(question.answers, distinct),
    }


def _trainer(question: Question) -> Section:
    trainer = question.trainer
    if trainer.free_bytes <= 0:
        return {"fits": "No: the base alone takes more than the GPU has. Train it distributed (docs/operations.md)."}
    if not trainer.tenants:
        return {"fits": "No: the base fits, but no adapter of this rank beside it."}
    return {
        "fits": "Yes.",
        "job_bytes": trainer.job_bytes,
        "tenants": trainer.tenants,
    }


def _settings(question: Question) -> Section:
    """What the server is told, so that all of it holds."""
    found: Section = {}
    if question.engine.kv_tokens:
        found["TRELLIS_ENGINE_BANK_ROWS"] = question.engine.bank_rows
        found["TRELLIS_ENGINE_MAX_ADAPTERS"] = question.adapters
        found["TRELLIS_ENGINE_MAX_RUNNING"] = question.answers
    if question.trainer.tenants:
        found["TRELLIS_TRAINER_RANK_ROWS"] = question.trainer.rows_of_tenants
        found["TRELLIS_TRAINER_MAX_JOBS"] = question.trainer.tenants
    return found


def _job(question: Question) -> Section:
    job = JobStorage(question.shape, question.rank, question.steps, question.dataset_bytes, targets=question.targets)
    return {
        "stored_adapter_bytes": job.adapter_bytes,
        "checkpoints_bytes": job.checkpoints_bytes,
        "store_bytes": job.store_bytes,
        "database_bytes": job.database_bytes,
    }


def _costs(question: Question) -> Section:
    pace = question.throughput
    found: Section = {}
    for name in ("prompt", "completion", "trained"):
        tokens = getattr(pace, name)
        if name != "trained" or question.trainer.tenants:
            found[f"{name}_tokens_per_second"] = tokens
            found[name] = cost_of_a_million(question.hour_price, tokens)
    return found
