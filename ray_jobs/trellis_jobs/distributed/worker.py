"""One worker's part of a run, from its first to its last line. Ray Train has each of them `follow` its order."""

import logging
import tempfile
import time
import traceback
from collections.abc import Container
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

import ray
import torch
from ray import train
from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

from trellis.objects import ObjectStore
from trellis.spec import TrainSpec
from trellis.v1.tuning_job_pb2 import TuningJobEvent
from trellis.v1.worker_pb2 import StartAttemptResponse
from trellis_jobs.artifact import AdapterObjects, manifest_of
from trellis_jobs.capture import FORMAT
from trellis_jobs.device import choose_device
from trellis_jobs.distributed.computing import Computing
from trellis_jobs.distributed.config import deepspeed_config, prepare_process, refuse_values, tame_deepspeed
from trellis_jobs.distributed.course import Course
from trellis_jobs.distributed.handing_in import hand_in_adapter, probe, write_adapter
from trellis_jobs.distributed.measuring import Measuring
from trellis_jobs.distributed.network import check_quantization, load_initial_adapter, load_network
from trellis_jobs.distributed.order import Order
from trellis_jobs.distributed.post import Post
from trellis_jobs.distributed.room import fleet_of, size_of
from trellis_jobs.distributed.states import States
from trellis_jobs.distributed.team import Team
from trellis_jobs.distributed.whole import store_checked, write_model, write_model_manifest
from trellis_jobs.distributed.zero import ZeroPlan, plan
from trellis_jobs.evaluation import Evaluation
from trellis_jobs.failure import JobStoppedError, describe
from trellis_jobs.methods.open import Data, objective_of, read_items
from trellis_jobs.model import Base, dated, open_base, target_modules

_PROBE_TOKENS: Final = 128
_log = logging.getLogger(__name__)


def follow(order: Order) -> None:
    """Do a worker's part; what goes wrong is told to the driver before it is raised."""
    context = train.get_context()
    rank = context.get_world_rank()
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format=FORMAT, force=True)
    prepare_process(order.threads)
    post = Post(lambda messages: ray.get(order.mailbox.push.remote(messages)), rank)
    try:
        run_share(order, post, rank, context.get_world_size(), context.get_local_world_size())
    except JobStoppedError:
        _log.info("Stopping, as the driver wants it.")
    except Exception as error:
        traceback.print_exception(error)
        ray.get(order.mailbox.fail.remote(rank, describe(error)))
        raise
    finally:
        post.close()


def run_share(order: Order, post: Post, rank: int, size: int, neighbours: int) -> None:
    """Do a worker's part, in a process group that is there; `neighbours` workers are on this node."""
    work = StartAttemptResponse.FromString(order.work)
    spec, store = TrainSpec.from_json(work.train_spec_json), ObjectStore.open(work.store_url)
    device = choose_device(spec.precision)
    run = _Run(order, work, spec, store, post, Team(rank, size, device), neighbours)
    check_quantization(spec, device)
    post.phase("reading the data")
    run.tell_of_data()
    post.phase("loading the base")
    course = run.course()
    course.begin()
    if course.totals.base_evaluation is None:
        post.phase("evaluating the base")
        run.evaluate_base(course)
    course.train()
    run.hand_in(course)


@dataclass
class _Run:
    order: Order
    work: StartAttemptResponse
    spec: TrainSpec
    store: ObjectStore
    post: Post
    team: Team
    neighbours: int

    @cached_property
    def base(self) -> Base:
        """The base, of which only the tokenizer is loaded."""
        base = open_base(self.spec)
        if not self.spec.full:
            target_modules(self.spec, base.facts)  # told before the base is loaded, which may take long
        return replace(base, tokenizer=dated(base.tokenizer, self.work))

    @cached_property
    def data(self) -> Data:
        return read_items(self.store, self.spec, self.work, self.base.tokenizer)

    def tell_of_data(self) -> None:
        self.post.event(self.data.told)
        for warning in self.data.warnings:
            self.post.event(warning, TuningJobEvent.LEVEL_WARNING)

    def course(self) -> Course:
        """Everything that training needs, from a checkpoint if there is one."""
        zero = self._zero_plan()
        engine = self._engine(zero)
        computing = Computing(
            engine=engine,
            team=self.team,
            objective=objective_of(self.spec),
            pad_id=self.base.tokenizer.pad_id,
            parts=self.spec.gradient_accumulation_steps,
            pass_tokens=max(1, zero.pass_tokens >> self.work.memory_halvings),
        )
        data, tokenizer = self.data, self.base.tokenizer
        lines = self.spec.max_evaluation_lines
        course = Course(
            spec=self.spec,
            plan=data.plan(self.spec),
            items=data.train,
            computing=computing,
            measuring=Measuring(computing, data.held_out, data.answers, tokenizer, lines),
            states=States(self.store, self.work.checkpoint_prefix, self.work.attempt, engine, self.team),
            post=self.post,
            write_adapter=partial(self._write_adapter, engine),
            seed=self._seed,
        )
        self._resume(course)
        return course

    def evaluate_base(self, course: Course) -> None:
        began = time.monotonic()
        with course.computing.engine.bare() if self.work.initial_key else nullcontext():
            course.totals.base_evaluation = course.measuring.evaluate(course.references.held_out)
        self.post.evaluation_took(time.monotonic() - began)
        self._tell("The base", course.totals.base_evaluation, 0)

    def hand_in(self, course: Course) -> None:
        """Store, check and evaluate what was trained, and name it by its manifest."""
        self.post.phase("checking the model" if self.spec.full else "checking the adapter")
        if self.spec.full:
            self._hand_in_model(course)
        else:
            self._hand_in_adapter(course)

    def _hand_in_adapter(self, course: Course) -> None:
        engine, facts = course.computing.engine, self.base.facts
        prefix, probe_T = self.work.adapter_prefix, self._probe
        with hand_in_adapter(engine, self.team, self.spec, facts, self.store, prefix, probe_T) as folder:
            self.post.phase("evaluating the adapter")
            tuned, metrics = self._evaluate_tuned(course, "The adapter")
            if self.team.rank == 0:
                code, job = self.order.code_version, self.work.tuning_job
                manifest = manifest_of(Path(folder), self.spec, metrics=metrics, code_version=code, tuning_job=job)
                AdapterObjects(self.store, prefix).upload_manifest(manifest)
                self._finished(course, tuned, adapter_digest=manifest.digest)
        self.team.wait()

    def _hand_in_model(self, course: Course) -> None:
        engine, prefix = course.computing.engine, self.work.model_prefix
        trained_TV = probe(engine, self.team, self._probe)
        self.post.phase("evaluating the model")
        tuned, metrics = self._evaluate_tuned(course, "The model")
        with tempfile.TemporaryDirectory() as scratch:
            write_model(engine, self.team, self.base.facts, Path(scratch))
            if self.team.rank == 0:
                unset_hf_deepspeed_config()  # the first worker alone loads the stored model now, whole
                files = store_checked(
                    Path(scratch), self.store, prefix, self.base.facts, self.team.device, self._probe, trained_TV
                )
                code, job = self.order.code_version, self.work.tuning_job
                digest = write_model_manifest(
                    self.store, prefix, files, spec=asdict(self.spec), metrics=metrics, code=code, job=job
                )
                self._finished(course, tuned, model_digest=digest)
        self.team.wait()

    def _finished(self, course: Course, tuned: Evaluation, *, adapter_digest: str = "", model_digest: str = "") -> None:
        _log.info("It is stored; its digest is %s.", adapter_digest or model_digest)
        totals = course.totals
        self.post.finished(adapter_digest, model_digest, totals.base_evaluation, tuned, totals.trained_tokens)

    def _evaluate_tuned(self, course: Course, who: str) -> tuple[Evaluation, dict[str, Any]]:
        totals = course.totals
        tuned = course.measuring.evaluate(course.references.held_out, totals.held_out)
        self._tell(who, tuned, totals.step, said=totals.held_out)
        base = totals.base_evaluation
        return tuned, {
            "base": None if base is None else asdict(base),
            "tuned": asdict(tuned),
            "steps": totals.step,
            "train_loss": totals.loss,
            "trained_tokens": totals.trained_tokens,
        }

    def _tell(self, who: str, evaluation: Evaluation, step: int, said: Container[str] = ()) -> None:
        if not evaluation.line_count:
            return
        if unsaid := {name: value for name, value in evaluation.metrics().items() if name not in said}:
            self.post.metrics(step, unsaid)
        self.post.event(f"{who} on held-out lines: {evaluation}.")

    def _zero_plan(self) -> ZeroPlan:
        spec = self.spec
        assert spec.distributed is not None
        size, fleet = size_of(spec, self.base.facts, self.team.device), fleet_of(self.team, self.neighbours)
        found = plan(size, fleet, spec.distributed.asked, spec.context_length, quantized=spec.quantization != "none")
        level = TuningJobEvent.LEVEL_INFO if found.fits else TuningJobEvent.LEVEL_WARNING
        self.post.event(found.reason, level)
        return found

    def _engine(self, zero: ZeroPlan) -> Any:
        from trellis_jobs.distributed.engine import Engine  # noqa: PLC0415  imports DeepSpeed, which reads its settings

        tame_deepspeed()
        bf16 = self.team.device.dtype is torch.bfloat16
        config = deepspeed_config(self.spec, zero.layout, bf16=bf16)
        if self.team.rank == 0:
            _log.info("DeepSpeed's config: %s", config)
        refuse_values(config)
        # While it lives, transformers loads each weight into its shard.
        sharding = HfDeepSpeedConfig(config) if zero.layout.stage == 3 else None
        network = load_network(self.spec, self.base.facts, self.team.device, zero.layout)
        if self.work.initial_key and not self.work.resume_key:
            load_initial_adapter(network, self.store, self.work.initial_key)
        engine = Engine(network, self.spec, config, self.team)
        engine.sharding = sharding
        return engine

    def _write_adapter(self, engine: Any, folder: Path) -> None:
        if not self.spec.full:
            write_adapter(engine, self.team, folder, self.spec)

    def _resume(self, course: Course) -> None:
        if not self.work.resume_key:
            return
        resumed = course.states.resume(self.work.resume_key, self.work.resume_step)
        if resumed is None:
            message = "No checkpoint can be read, so training begins anew."
            self.post.event(message, TuningJobEvent.LEVEL_WARNING)
            return
        course.totals.restore(resumed)
        course.references.restore(resumed.reference)
        self.post.event(f"Training goes on from the checkpoint of step {resumed.step}.")

    @cached_property
    def _probe(self) -> torch.Tensor:
        """A few tokens of the first line: (T,)."""
        return self.data.train.rows(0)[0].ids_T[:_PROBE_TOKENS]

    def _seed(self, done: int) -> None:
        """Dropout depends on the step and the worker, not on what came before."""
        torch.manual_seed((((self.spec.seed << 32) + done) * 1021 + self.team.rank) % (1 << 63))
