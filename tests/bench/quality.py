"""Is an adapter tuned by Trellis as good as one tuned by plain peft and transformers? On banking77, held out.

The questions of some intents go through the SDK to a Trellis of this script's own, which tunes the tiny base on them, on the
trainer that jobs share and on a DeepSpeed worker (`--way`), and evaluates the adapter on the dataset's own test file. The same base, lines and hyperparameters then go through
`tests.bench.peers.plain_peft`, a process that knows nothing of Trellis. What the deployed adapter answers through
`generate` is compared with the job's own evaluation, and with what plain transformers answers with the same files.
"""

import argparse
import datetime as dt
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trellis
from tests.bench.banking77 import ALL_INTENTS, Banking77, DatasetMissingError, Question, find_folder
from tests.bench.private_stack import private_stack
from tests.bench.report import Machine, Row, Sheet, output_options, say, versions
from trellis.local.ray_head import QUIET_THREADS

PEER = "peft + transformers"
BOUND_POINTS = 2.0
"""By so much may the held-out accuracy of each way differ from the peer's, in points of a hundred."""
WAYS: Mapping[str, trellis.DistributedSpec | None] = {"shared": None, "distributed": trellis.DistributedSpec(workers=1)}
_BASE = Path(trellis.__file__).parent / "base_models/trellis-tiny"
_ROOT = Path(__file__).parents[2]
_DISTRIBUTIONS = ("trellis", "torch", "transformers", "peft", "ray")
_ASKED_AT_ONCE = 8
_QUICK_TRAIN_EACH, _QUICK_TEST_EACH = 32, 12


@dataclass(frozen=True, slots=True)
class Settings:
    """What both sides do alike."""

    intents: int
    epochs: int
    learning_rate: float
    rank: int
    seeds: int
    warmup_ratio: float
    alpha: int = 32
    batch_size: int = 16
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0

    def spec(self, seed: int, test_lines: int) -> trellis.TrainingSettings:
        """The settings as a job gets them; all test lines are answered."""
        return trellis.TrainingSettings(
            lora=trellis.LoraSpec(rank=self.rank, alpha=self.alpha, dropout=0.0),
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            schedule=trellis.LearningRateSchedule.COSINE,
            warmup_ratio=self.warmup_ratio,
            weight_decay=self.weight_decay,
            max_grad_norm=self.max_grad_norm,
            precision=trellis.Precision.FP32,
            seed=seed,
            max_evaluation_lines=test_lines,
        )

    def options(self, seed: int) -> list[str]:
        """The settings as the peer gets them; what is not here is fixed there."""
        named = {
            "--rank": self.rank,
            "--alpha": self.alpha,
            "--epochs": self.epochs,
            "--batch-size": self.batch_size,
            "--learning-rate": self.learning_rate,
            "--warmup-ratio": self.warmup_ratio,
            "--seed": seed,
        }
        return [text for name, value in named.items() for text in (name, str(value))]


@dataclass(frozen=True, slots=True)
class Score:
    """Share of test lines answered exactly, and loss in nats an answer's token."""

    exact: float
    loss: float


@dataclass(frozen=True, slots=True)
class Run:
    """What one side found with one seed; `seconds` is from submit or start to the evaluated adapter."""

    base: Score
    tuned: Score
    training_seconds: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Served:
    """What the first seed's adapter answers to the test lines through Trellis, and the adapter's files."""

    answers: list[str]
    files: Path
    seconds: float


def main() -> None:
    """Run both sides and publish the rows."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    try:
        folder = find_folder(arguments.data)
    except DatasetMissingError as error:
        sys.exit(str(error))
    settings = _settings(arguments)
    quick = (_QUICK_TRAIN_EACH, _QUICK_TEST_EACH) if arguments.quick else (None, None)
    data = Banking77.read(folder).restricted(settings.intents, *quick)
    machine = Machine.this()
    with tempfile.TemporaryDirectory(prefix="trellis-bench-") as scratch:
        rows = _measure(settings, data, arguments.way, Path(scratch))
    facts = _facts(settings, data)
    today = dt.datetime.now(dt.UTC).date().isoformat()
    sheet = Sheet("quality", today, arguments.quick, machine, versions(_DISTRIBUTIONS), facts, rows)
    sheet.publish(arguments.json)


def _measure(settings: Settings, data: Banking77, ways: Sequence[str], scratch: Path) -> list[Row]:
    train, test = data.write(scratch)
    ours, served = _tune_with_trellis(settings, data.test, ways, (train, test), scratch / "adapter")
    found = [_tune_plainly(settings, seed, train, test, served.files) for seed in range(settings.seeds)]
    check = found[0][1]["adapter"]
    first = ours[ways[0]][0]
    return [*_quality_rows(ours, [run for run, _ in found]), *_serving_rows(first, served, check, data.test)]


def _tune_with_trellis(
    settings: Settings, questions: Sequence[Question], ways: Sequence[str], data: tuple[Path, Path], files: Path
) -> tuple[Mapping[str, list[Run]], Served]:
    """The runs of each way; the first one's first adapter is served."""
    with private_stack(say) as stack, stack.member("bench") as client:
        for path, dataset in zip(data, ("banking77", "banking77-test"), strict=True):
            client.datasets.upload(path, dataset=dataset)
            say(f"{dataset}: {client.datasets.report(dataset).summary}")
        found: dict[str, list[tuple[Run, trellis.TuningJob]]] = {way: [] for way in ways}
        for way, runs in found.items():
            for seed in range(settings.seeds):
                say(f"Trellis, {way}, seed {seed} …")
                runs.append(_tune(client, settings.spec(seed, len(questions)), WAYS[way]))
        served = _serve(client, found[ways[0]][0][1].adapter, questions, files)
        return {way: [run for run, _ in runs] for way, runs in found.items()}, served


def _tune(
    client: trellis.Client, spec: trellis.TrainingSettings, distributed: trellis.DistributedSpec | None
) -> tuple[Run, trellis.TuningJob]:
    began = time.monotonic()
    submitted = client.jobs.create(
        "banking77", validation_dataset="banking77-test", supervised=spec, distributed=distributed
    )
    job = client.jobs.wait(submitted.name)
    seconds = time.monotonic() - began
    assert job.base_evaluation is not None
    assert job.tuned_evaluation is not None
    base, tuned = (Score(found.exact_match, found.loss) for found in (job.base_evaluation, job.tuned_evaluation))
    say(f"  {tuned.exact:.1%} of test lines exact, loss {tuned.loss:.3f}, {seconds:.0f} s")
    return Run(base, tuned, _training_seconds(client, job.name), seconds), job


def _training_seconds(client: trellis.Client, job: str) -> float:
    """By the clock of the training process, from its first to its last step, one more step's time added."""
    steps = [point for point in client.jobs.metrics(job) if "train_loss" in point.values]
    first, last = steps[0].time, steps[-1].time
    assert first is not None
    assert last is not None
    return (last - first).total_seconds() * len(steps) / max(1, len(steps) - 1)


def _serve(client: trellis.Client, adapter: str, questions: Sequence[Question], files: Path) -> Served:
    client.adapters.download(adapter, files)
    client.adapters.deploy(adapter)
    say(f"Asking the deployed adapter {len(questions)} questions …")
    began = time.monotonic()

    def ask(question: Question) -> str:
        return client.generate(adapter, question.text, temperature=0.0, max_tokens=48).text.strip()

    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        answers = list(pool.map(ask, questions))
    return Served(answers, files, time.monotonic() - began)


def _tune_plainly(settings: Settings, seed: int, train: Path, test: Path, adapter: Path) -> tuple[Run, dict[str, Any]]:
    """The peer's run, and all that it found; that of the first seed also looks at Trellis's adapter."""
    say(f"{PEER}, seed {seed} …")
    out = train.with_name("peer.json")
    command = [sys.executable, "-W", "ignore", "-m", "tests.bench.peers.plain_peft", *settings.options(seed)]
    files = {"--base": _BASE, "--train": train, "--test": test, "--out": out} | ({} if seed else {"--adapter": adapter})
    command += [str(part) for option in files.items() for part in option]
    environment = {**os.environ, **QUIET_THREADS, "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, check=True, cwd=_ROOT, env=environment)
    found = json.loads(out.read_text())
    base, tuned = (Score(found[which]["exact_match"], found[which]["loss"]) for which in ("base", "tuned"))
    say(f"  {tuned.exact:.1%} of test lines exact, loss {tuned.loss:.3f}, {found['seconds']:.0f} s")
    return Run(base, tuned, found["training_seconds"], found["seconds"]), found


def _quality_rows(ours: Mapping[str, Sequence[Run]], theirs: Sequence[Run]) -> Iterator[Row]:
    for way, runs in ours.items():
        yield from _rows_of(way, runs, theirs)


def _rows_of(way: str, ours: Sequence[Run], theirs: Sequence[Run]) -> Iterator[Row]:
    def mean(name: str, unit: str, values: Any) -> Row:
        one, other = (statistics.fmean(map(values, runs)) for runs in (ours, theirs))
        return Row(f"{name}, {way}", one, unit, PEER, other)

    yield Row(f"test answers exact, base, {way}", ours[0].base.exact, "share", PEER, theirs[0].base.exact)
    for seed, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        yield Row(f"test answers exact, tuned, seed {seed}, {way}", one.tuned.exact, "share", PEER, other.tuned.exact)
    tuned = mean("test answers exact, tuned, mean", "share", lambda run: run.tuned.exact)
    assert tuned.peer_value is not None
    yield tuned
    apart = 100 * (tuned.value - tuned.peer_value)
    within = "within" if abs(apart) <= BOUND_POINTS else "NOT WITHIN"
    yield Row(f"difference, {way} less peer ({within} {BOUND_POINTS:g})", apart, "points")
    yield Row(f"test loss, base, {way}", ours[0].base.loss, "nats/token", PEER, theirs[0].base.loss)
    yield mean("test loss, tuned, mean", "nats/token", lambda run: run.tuned.loss)
    yield mean("training, mean", "s", lambda run: run.training_seconds)
    yield mean("submit, or start, to evaluated adapter, mean", "s", lambda run: run.seconds)


def _serving_rows(first: Run, served: Served, check: dict[str, Any], questions: Sequence[Question]) -> Iterator[Row]:
    def share(answers: Sequence[str], others: Sequence[str]) -> float:
        return sum(one == other for one, other in zip(answers, others, strict=True)) / len(answers)

    right = share(served.answers, [question.intent for question in questions])
    yield Row(
        "seed 0 evaluated by its job", first.tuned.exact, "share", "its files in transformers", check["exact_match"]
    )
    yield Row("seed 0 asked through generate", right, "share", "its job's evaluation", first.tuned.exact)
    yield Row("answers of generate that transformers gives too", share(served.answers, check["answers"]), "share")
    yield Row("answers through generate", len(served.answers) / served.seconds, "1/s")


def _facts(settings: Settings, data: Banking77) -> dict[str, Any]:
    names = ("intents", "epochs", "learning_rate", "rank", "alpha", "batch_size", "warmup_ratio", "seeds")
    facts: dict[str, Any] = {"base": _BASE.name, "train_lines": len(data.train), "test_lines": len(data.test)}
    facts |= {name: getattr(settings, name) for name in names}
    return facts | {"precision": "fp32", "trellis_job_cpus": 1, "peer_threads": len(os.sched_getaffinity(0))}


def _settings(arguments: argparse.Namespace) -> Settings:
    return Settings(
        intents=arguments.intents,
        epochs=arguments.epochs,
        learning_rate=arguments.learning_rate,
        rank=arguments.rank,
        seeds=arguments.seeds,
        # transformers begins its warm-up at a rate of zero: of the few steps of a quick run that would waste a good part.
        warmup_ratio=0.0 if arguments.quick else 0.03,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.quality", description=__doc__)
    output_options(parser)
    parser.add_argument("--data", type=Path, metavar="DIR", help="a folder with banking77's train.jsonl and test.jsonl")
    parser.add_argument("--intents", type=int, choices=range(2, ALL_INTENTS + 1), metavar=f"2..{ALL_INTENTS}")
    parser.add_argument("--way", action="append", choices=tuple(WAYS), help="both when not given; may be given again")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seeds", type=int, default=1, help="runs of each side, with the seeds 0, 1, …")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--rank", type=int, default=16)
    arguments = parser.parse_args()
    arguments.intents = arguments.intents or (3 if arguments.quick else 10)
    arguments.way = list(dict.fromkeys(arguments.way or WAYS))
    arguments.epochs = arguments.epochs or (2 if arguments.quick else 3)
    return arguments


if __name__ == "__main__":
    main()
