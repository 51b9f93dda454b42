"""Each noun's methods, through both clients, over a real socket."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.client_rig import Rig, all_of, got

import trellis
from trellis.v1 import usage_pb2
from trellis.v1.access_pb2 import ROLE_MEMBER
from trellis.v1.audit_pb2 import AuditEvent
from trellis.v1.tuning_job_pb2 import TuningJob


async def test_tenants(rig: Rig) -> None:
    tenants = rig.client.tenants
    made = await got(tenants.create("acme", display_name="Acme"))
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert made == trellis.Tenant("tenants/acme", "Acme", moment, "1", 1.0)
    assert await got(tenants.get("acme")) == made == await got(tenants.get("tenants/acme"))
    await got(tenants.delete("acme"))
    with pytest.raises(trellis.NotFound, match="does not exist"):
        await got(tenants.get("acme"))


async def test_only_what_is_said_of_a_tenant_is_changed(rig: Rig) -> None:
    tenants = rig.client.tenants
    made = await got(tenants.create("acme", display_name="Acme", serving_weight=0.5))
    assert made.serving_weight == 0.5
    changed = await got(tenants.update("acme", serving_weight=2))
    assert (changed.display_name, changed.serving_weight, changed.etag) == ("Acme", 2.0, "11")
    assert (await got(tenants.update("acme", display_name=""))).serving_weight == 2.0
    with pytest.raises(trellis.InvalidArgument, match="serving_weight"):
        await got(tenants.update("acme"))
    with pytest.raises(trellis.NotFound):
        await got(tenants.update("nobody", serving_weight=2))


async def test_a_quota_and_what_is_used_of_it(rig: Rig) -> None:
    month = trellis.Budget(trellis.BudgetMeter.TOKENS, trellis.BudgetPeriod.MONTH, 8, None)
    quota = trellis.Quota(accelerators=1.5, open_jobs=0, max_priority=-3, budgets=(month,))
    made = await got(rig.client.tenants.create("acme", cohort="research", training_weight=2.0, quota=quota))
    assert (made.cohort, made.training_weight, made.quota) == ("research", 2.0, quota)
    changed = await got(rig.client.tenants.update("acme", quota=trellis.Quota(open_jobs=1)))
    assert (changed.cohort, changed.quota) == ("research", trellis.Quota(open_jobs=1))
    rig.server.usage.limits = [usage_pb2.LimitStatus(limit="open_jobs", allowed=1, used=0.5)]
    status = await got(rig.client.usage.quota())
    limit = trellis.LimitStatus("open_jobs", 1.0, None, 0.5, 0.0, None)
    assert status == trellis.QuotaStatus("tenants/acme", changed.quota, (limit,))
    assert (await got(rig.client.tenants.update("acme", quota=trellis.Quota()))).quota == trellis.Quota()


async def test_lists_fetch_their_pages_as_they_are_needed(rig: Rig) -> None:
    for name in "abcde":
        await got(rig.client.tenants.create(name))
    listed = rig.client.tenants.list()
    assert rig.server.faults.count("ListTenants") == 0
    assert [t.name for t in await all_of(listed)] == [f"tenants/{name}" for name in "abcde"]
    assert rig.server.faults.count("ListTenants") == 3


async def test_api_keys(rig: Rig) -> None:
    keys = rig.client.api_keys
    expiry = datetime(2030, 1, 1, tzinfo=UTC)
    made = await got(keys.create(role=trellis.Role.TENANT_ADMIN, display_name="ci", expire_time=expiry))
    assert made.secret == "tr_abcdef"
    assert made.secret not in repr(made)
    assert (made.api_key.name, made.api_key.role) == ("tenants/acme/apiKeys/k0", trellis.Role.TENANT_ADMIN)
    assert made.api_key.expire_time == expiry
    assert (await got(keys.create("platform", role=trellis.Role.ADMIN))).api_key.name == "platform/apiKeys/k1"
    assert [key.name for key in await all_of(keys.list())] == ["tenants/acme/apiKeys/k0"]
    assert (await got(keys.get("k0"))).revoke_time is None
    narrow = (await got(keys.create("other", scopes=[trellis.Scope.GENERATE, trellis.Scope.READ]))).api_key
    assert (narrow.scopes, made.api_key.scopes) == ((trellis.Scope.GENERATE, trellis.Scope.READ), ())
    rotated = await got(keys.rotate("k0", overlap=timedelta(hours=2)))
    assert rotated.secret == "tr_newsecret"
    assert rotated.secret not in repr(rotated)
    assert rotated.api_key.rotate_time is not None
    assert rotated.api_key.old_secret_expire_time == rotated.api_key.rotate_time + timedelta(hours=2)
    assert rotated.api_key.expire_time == expiry
    later = datetime(2031, 1, 1, tzinfo=UTC)
    assert (await got(keys.rotate("k0", expire_time=later))).api_key.expire_time == later
    assert (await got(keys.revoke("k0"))).revoke_time is not None
    with pytest.raises(trellis.FailedPrecondition):
        await got(keys.rotate("k0"))
    with pytest.raises(ValueError, match="time zone"):
        await got(keys.rotate("k0", expire_time=datetime(2030, 1, 1)))  # noqa: DTZ001 - what is refused
    with pytest.raises(ValueError, match="time zone"):
        await got(keys.create(expire_time=datetime(2030, 1, 1)))  # noqa: DTZ001 - what is refused


async def test_base_models(rig: Rig) -> None:
    models = rig.client.base_models
    made = await got(models.create("tiny-1.0", source="/models/tiny", default=True))
    assert (made.name, made.source, made.is_default) == ("baseModels/tiny-1.0", "/models/tiny", True)
    assert await got(models.get("tiny-1.0")) == made
    assert await all_of(models.list()) == [made]
    await got(models.delete("tiny-1.0"))
    assert await all_of(models.list()) == []


async def test_datasets(rig: Rig) -> None:
    datasets = rig.client.datasets
    made = await got(datasets.create("support"))
    assert made.name == "tenants/acme/datasets/support"
    assert await got(datasets.get("support")) == made
    assert (await got(datasets.create("other", tenant="globex"))).name == "tenants/globex/datasets/other"
    assert [d.name for d in await all_of(datasets.list())] == ["tenants/acme/datasets/support"]
    await got(datasets.delete("support"))
    with pytest.raises(trellis.NotFound):
        await got(datasets.get("support"))


async def test_a_job_is_created_with_what_was_said_and_nothing_else(rig: Rig) -> None:
    spec = trellis.TrainingSettings(
        lora=trellis.LoraSpec(rank=8, target_modules=("q_proj",)),
        epochs=0,
        schedule=trellis.LearningRateSchedule.LINEAR,
    )
    job = await got(
        rig.client.jobs.create(
            "support@" + "0" * 64, base_model="tiny", supervised=spec, alias="support", deploy=True, priority=7
        )
    )
    assert job.supervised == spec
    assert job.training_dataset == "tenants/acme/datasets/support/versions/" + "0" * 64
    assert (job.base_model, job.alias, job.deploy) == ("baseModels/tiny", "tenants/acme/aliases/support", True)
    assert (job.priority, job.preemption_count) == (7, 0)
    assert job.estimate == trellis.JobEstimate(0.25, timedelta(minutes=2), 1200, "1,200 tokens.", 30.0)
    assert job.state is trellis.JobState.QUEUED
    assert job.queue_reason == trellis.QueueReason(trellis.QueueReasonCode.CAPACITY, "No room.", 2)
    assert (job.progress, job.error, job.tuned_evaluation, job.validation_dataset) == (None, None, None, "")


async def test_a_job_of_another_method_says_what_it_is_made_of(rig: Rig) -> None:
    preference = trellis.PreferenceSpec(
        training=trellis.TrainingSettings(epochs=1), loss=trellis.PreferenceLoss.ORPO, beta=0.2
    )
    spread = trellis.DistributedSpec(workers=2, offload=trellis.Offload.NONE, gradient_checkpointing=False)
    job = await got(
        rig.client.jobs.create(
            "pairs",
            preference=preference,
            distributed=spread,
            replay_dataset="general@" + "0" * 64,
            initial_adapter="tenants/acme/tuningJobs/a/checkpoints/50",
        )
    )
    assert (job.supervised, job.preference, job.distributed) == (None, preference, spread)
    assert job.replay_dataset == "tenants/acme/datasets/general/versions/" + "0" * 64
    assert job.initial_adapter == "tenants/acme/tuningJobs/a/checkpoints/50"
    pretraining = trellis.PretrainingSpec()
    text = await got(rig.client.jobs.create("manuals", pretraining=pretraining, initial_adapter="support"))
    assert (text.supervised, text.pretraining, text.distributed) == (None, pretraining, None)
    assert text.initial_adapter == "tenants/acme/aliases/support"
    with pytest.raises(trellis.InvalidArgument, match="one method"):
        await got(rig.client.jobs.create("pairs", preference=preference, pretraining=pretraining))


async def test_a_job_of_another_tenant_uses_that_tenants_names(rig: Rig) -> None:
    job = await got(rig.client.jobs.create("support", tenant="globex", alias="support"))
    assert job.name == "tenants/globex/tuningJobs/j0"
    assert job.training_dataset == "tenants/globex/datasets/support"
    assert job.alias == "tenants/globex/aliases/support"


async def test_jobs(rig: Rig) -> None:
    jobs = rig.client.jobs
    for number in range(3):
        await got(jobs.create("support", job_id=f"job-{number}"))
    assert [job.name[-5:] for job in await all_of(jobs.list())] == ["job-0", "job-1", "job-2"]
    assert (await got(jobs.cancel("job-1"))).state is trellis.JobState.CANCELLING
    cancelling = await all_of(jobs.list(tenant="-", states=[trellis.JobState.CANCELLING]))
    assert [job.name for job in cancelling] == ["tenants/acme/tuningJobs/job-1"]
    rig.server.jobs.finish("tenants/acme/tuningJobs/job-2")
    metrics = await all_of(jobs.metrics("job-2"))
    assert [(point.step, point.values) for point in metrics[:2]] == [(1, {"train_loss": 1.0}), (2, {"train_loss": 0.5})]
    assert [one.step for one in await all_of(jobs.checkpoints("job-2"))] == [50]
    done = await got(jobs.get("job-2"))
    assert (done.tuned_evaluation.exact_match, done.adapter) == (0.8, f"tenants/acme/adapters/{'a' * 24}")
    await got(jobs.delete("job-0"))
    with pytest.raises(trellis.NotFound):
        await got(jobs.get("job-0"))


async def test_jobs_are_paused_resumed_and_preempted(rig: Rig) -> None:
    jobs, running = rig.client.jobs, "tenants/acme/tuningJobs/a"
    await got(jobs.create("support", job_id="a"))
    assert (await got(jobs.pause("a"))).state is trellis.JobState.PAUSED
    assert (await got(jobs.resume("a"))).state is trellis.JobState.QUEUED
    with pytest.raises(trellis.FailedPrecondition) as caught:
        await got(jobs.resume(running))
    assert caught.value.metadata == {"state": "QUEUED"}
    rig.server.jobs.jobs[running].state = TuningJob.STATE_RUNNING
    assert (await got(jobs.pause("a"))).state is trellis.JobState.PAUSING
    assert (await got(jobs.resume("a"))).state is trellis.JobState.RUNNING
    assert (await got(jobs.preempt("a", reason="A node goes down."))).state is trellis.JobState.PREEMPTING
    assert rig.server.jobs.reasons == ["A node goes down."]
    assert not trellis.JobState.PAUSED.ended


async def test_checkpoints_are_pinned_and_promoted(rig: Rig) -> None:
    jobs, name = rig.client.jobs, "tenants/acme/tuningJobs/a/checkpoints/50"
    await got(jobs.create("support", job_id="a"))
    one = await got(jobs.get_checkpoint("a/checkpoints/50"))
    assert (one.name, one.best, one.valid_loss, one.pinned) == (name, True, 0.5, False)
    assert (await got(jobs.pin_checkpoint(name))).pinned
    assert [found.pinned for found in await all_of(jobs.checkpoints("a"))] == [True]
    assert not (await got(jobs.pin_checkpoint("a/checkpoints/50", pinned=False))).pinned
    made = await got(jobs.promote_checkpoint("a/checkpoints/50", display_name="Early"))
    assert (made.name, made.display_name) == (f"tenants/acme/adapters/{'b' * 24}", "Early")
    with pytest.raises(trellis.NotFound):
        await got(jobs.get_checkpoint("a/checkpoints/51"))


def peft_folder(path: Path) -> Path:
    path.mkdir()
    (path / "adapter_config.json").write_text("{}")
    (path / "adapter_model.safetensors").write_bytes(b"x" * 1_500_000)
    return path


async def test_adapters_and_aliases(rig: Rig, tmp_path: Path) -> None:
    adapters, aliases = rig.client.adapters, rig.client.aliases
    folder = peft_folder(tmp_path / "in")
    made = await got(adapters.import_(folder, base_model="tiny", display_name="mine"))
    assert (made.base_model, made.display_name, made.target_modules) == ("baseModels/tiny", "mine", ("q_proj",))
    assert made.manifest == {"rank": 4, "files": ["a"]}
    assert await got(adapters.get(made.digest[:24])) == made
    assert await all_of(adapters.list()) == [made]
    assert (await got(adapters.deploy(made.name))).deployment is trellis.Deployment.DEPLOYED
    assert (await got(adapters.undeploy(made.name))).deployment is trellis.Deployment.UNDEPLOYED
    assert (await got(adapters.deploy(made.name, wait=False))).deployment is trellis.Deployment.DEPLOYING
    files = await got(adapters.download(made.name, tmp_path / "out" / "deep"))
    assert [file.name for file in files] == ["adapter_config.json", "adapter_model.safetensors"]
    assert files[1].read_bytes() == (folder / "adapter_model.safetensors").read_bytes()

    alias = await got(aliases.set("support", made.digest[:24]))
    assert (alias.name, alias.adapter) == ("tenants/acme/aliases/support", made.name)
    assert await got(aliases.get("support")) == alias
    assert await all_of(aliases.list()) == [alias]
    await got(aliases.delete("support"))
    await got(adapters.delete(made.name))
    assert await all_of(adapters.list()) == []


async def test_adapters_are_shared(rig: Rig, tmp_path: Path) -> None:
    adapters = rig.client.adapters
    made = await got(adapters.import_(peft_folder(tmp_path / "in"), base_model="tiny"))
    shares = [await got(adapters.share(made.digest[:24], tenant)) for tenant in ("b", "tenants/c", "d")]
    assert [share.tenant for share in shares] == ["tenants/b", "tenants/c", "tenants/d"]
    assert await all_of(adapters.shares(made.name)) == shares
    assert [one.name for one in await all_of(adapters.shared(tenant="c"))] == [made.name]
    await got(adapters.unshare(made.name, "c"))
    await got(adapters.unshare(made.name, "c"))
    assert await all_of(adapters.shared(tenant="c")) == []
    with pytest.raises(trellis.NotFound):
        await got(adapters.share("0" * 24, "b"))


async def test_the_audit_trail_is_read_in_pages_both_ways(rig: Rig) -> None:
    for number in range(1, 6):
        rig.server.audit.events.append(AuditEvent(sequence=number, tenant="tenants/acme", role=ROLE_MEMBER))
    assert [event.sequence for event in await all_of(rig.client.audit.list())] == [5, 4, 3, 2, 1]
    after = await all_of(rig.client.audit.list("-", after_sequence=2))
    assert [(event.sequence, event.role) for event in after] == [(n, trellis.Role.MEMBER) for n in (3, 4, 5)]
    assert await all_of(rig.client.audit.list("platform")) == []
    with pytest.raises(ValueError, match="time zone"):
        await all_of(rig.client.audit.list(start_time=datetime(2030, 1, 1)))  # noqa: DTZ001 - what is refused


async def test_a_folder_that_is_no_adapter_is_refused_before_anything_is_sent(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(trellis.InvalidArgument, match="Pickle is not taken") as caught:
        await got(rig.client.adapters.import_(tmp_path, base_model="tiny"))
    assert caught.value.reason == "ADAPTER_INVALID"
    assert rig.server.faults.calls == []


@pytest.mark.parametrize("fault", ["spoiled", "extra_file"])
async def test_a_spoiled_download_of_an_adapter_leaves_nothing(rig: Rig, tmp_path: Path, fault: str) -> None:
    made = await got(rig.client.adapters.import_(peft_folder(tmp_path / "in"), base_model="tiny"))
    setattr(rig.server.adapters, fault, {"spoiled": True, "extra_file": "../evil"}[fault])
    with pytest.raises(trellis.DataLoss):
        await got(rig.client.adapters.download(made.name, tmp_path / "out"))
    assert list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "evil").exists()


async def test_a_cut_download_of_an_adapter_begins_anew(rig: Rig, tmp_path: Path) -> None:
    made = await got(rig.client.adapters.import_(peft_folder(tmp_path / "in"), base_model="tiny"))
    rig.server.adapters.cut_downloads = 2
    assert len(await got(rig.client.adapters.download(made.name, tmp_path / "out"))) == 2
    assert len(rig.time.slept) == 2


async def test_waiting_for_a_deployment_ends_in_time(rig: Rig, tmp_path: Path) -> None:
    made = await got(rig.client.adapters.import_(peft_folder(tmp_path / "in"), base_model="tiny"))
    rig.server.adapters.polls_until_deployed = 10_000
    with pytest.raises(trellis.DeadlineExceeded, match="not deployed in time"):
        await got(rig.client.adapters.deploy(made.name, timeout=20))
    assert 19 < sum(rig.time.slept) < 22


async def test_times_and_spans_are_pythons(rig: Rig) -> None:
    await got(rig.client.jobs.create("support", job_id="a"))
    rig.server.jobs.finish("tenants/acme/tuningJobs/a")
    events = await all_of(rig.client.jobs.watch("a"))
    progress = [event.progress for event in events if event.progress]
    assert progress[0] == trellis.Progress(1, 4, "training", 1.0, timedelta(seconds=30), 0)
    assert events[0].time == datetime.fromtimestamp(1_700_000_001, UTC)
