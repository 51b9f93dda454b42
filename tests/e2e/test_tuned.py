"""What two tenants have once their jobs are done."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from peft import PeftModel
from tests.e2e import lines, tuning
from tests.e2e.conftest import Team
from tests.e2e.platform import Platform, kill
from transformers import AutoModelForCausalLM, AutoTokenizer

import trellis
from trellis.client.types import JobState, Placement

QUESTIONS = (0, 1, 2, 3, 21)


def test_a_watch_tells_all_of_a_job_once_and_in_order(globex: Team, initech: Team) -> None:
    for team in (globex, initech):
        assert tuning.gapless(team.events)
        states = [event.state for event in team.events if event.state]
        assert states == [JobState.QUEUED, JobState.STARTING, JobState.RUNNING, JobState.SUCCEEDED]
        assert {event.tuning_job for event in team.events} == {team.done.name}
        assert list(team.client.jobs.watch(team.done.name, after_sequence=len(team.events) - 2)) == team.events[-2:]


def test_metrics_checkpoints_and_logs_outlive_the_process(platform: Platform, globex: Team) -> None:
    client, job = globex.client, globex.done
    kill(*platform.trainer_pids())
    assert sorted(tuning.losses(client, job.name)) == list(range(1, tuning.STEPS + 1))
    steps = [checkpoint.step for checkpoint in client.jobs.checkpoints(job.name)]
    assert steps[-1] == tuning.STEPS
    assert steps == sorted(set(steps))
    log = "".join(chunk.text for chunk in client.jobs.logs(job.name))
    assert log.count(f"Step {tuning.STEPS} of {tuning.STEPS}:") == 1
    assert "Now evaluating the adapter." in log


def test_tuning_helps(globex: Team, initech: Team) -> None:
    for team in (globex, initech):
        base, tuned = team.done.base_evaluation, team.done.tuned_evaluation
        assert base is not None
        assert tuned is not None
        assert tuned.loss < base.loss
        assert tuned.token_accuracy > base.token_accuracy
        assert team.done.attempt_count == 1


def test_a_report_says_what_is_trained_on(globex: Team) -> None:
    report = globex.client.datasets.report(tuning.DATASET)
    assert report.valid
    assert report.line_count == report.valid_line_count == 48
    assert 0 < report.trainable_token_count < report.token_count
    trained = [piece.text for piece in report.previews[0].segments if piece.trained]
    assert any("there is red" in text for text in trained)
    assert not any("what is in" in text for text in trained)


def test_each_tenant_gets_its_own_answers(globex: Team, initech: Team) -> None:
    for team in (globex, initech):
        for number in QUESTIONS[:4]:
            said = team.says(number)
            assert said.adapter_digest == team.client.adapters.get(team.done.adapter).digest
            assert any(word in said.text for word in team.answers), said.text


def test_both_tenants_at_once_get_what_each_gets_alone(globex: Team, initech: Team) -> None:
    alone = {(team.name, number): team.says(number).token_ids for team in (globex, initech) for number in QUESTIONS}
    streams = {
        (team.name, number): team.client.generate_stream(
            tuning.DATASET, lines.question(number), temperature=0.0, max_tokens=12
        )
        for number in QUESTIONS
        for team in (globex, initech)
    }
    together: dict[tuple[str, int], tuple[int, ...]] = dict.fromkeys(streams, ())
    # A piece of each in turn: all are on their way at the same time, on one copy of the base.
    while streams:
        for asked, stream in list(streams.items()):
            chunk = next(stream, None)
            if chunk is None:
                del streams[asked]
            else:
                together[asked] += chunk.token_ids
    assert together == alone


def test_a_downloaded_adapter_is_plain_peft(globex: Team, tmp_path: Path) -> None:
    files = globex.client.adapters.download(globex.done.adapter, tmp_path / "adapter")
    assert {file.name for file in files} == {"adapter_config.json", "adapter_model.safetensors", "manifest.json"}
    base = globex.client.base_models.get(globex.done.base_model)
    tokenizer = AutoTokenizer.from_pretrained(base.source)
    model = AutoModelForCausalLM.from_pretrained(base.source, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(model, str(tmp_path / "adapter")).eval()
    for number in QUESTIONS:
        turns = [{"role": "user", "content": lines.question(number)}]
        asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        with torch.no_grad():
            whole = tuned.generate(**asked, max_new_tokens=12, do_sample=False)
        answer = tokenizer.decode(whole[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
        assert answer == globex.says(number).text


def test_all_weights_are_tuned_by_themselves_and_downloaded_as_a_model(initech: Team, tmp_path: Path) -> None:
    settings = replace(tuning.SPEC, lora=trellis.LoraSpec(), full=True, max_steps=20, learning_rate=1e-3)
    job = initech.client.jobs.create(tuning.DATASET, supervised=settings)
    done = initech.client.jobs.wait(job.name, timeout=280)
    assert done.placement is Placement.DISTRIBUTED
    assert done.adapter == ""
    assert done.base_evaluation is not None
    assert done.tuned_evaluation is not None
    assert done.tuned_evaluation.loss < done.base_evaluation.loss
    initech.client.exports.download(done.export, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tuned = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    source = initech.client.base_models.get(done.base_model).source
    base = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    assert any(not torch.equal(*pair) for pair in zip(tuned.parameters(), base.parameters(), strict=True))
    line = next(iter(lines.chat_lines(lines.FOODS).decode().splitlines()))
    asked = tokenizer.apply_chat_template(json.loads(line)["messages"], return_tensors="pt", return_dict=True)
    with torch.no_grad():
        losses = [model(**asked, labels=asked["input_ids"]).loss.item() for model in (tuned, base)]
    assert losses[0] < losses[1]


def test_the_base_answers_without_an_adapter(globex: Team) -> None:
    said = globex.says(1, "baseModels/trellis-tiny")
    assert said.adapter_digest == ""
    assert said.usage.completion_tokens > 0
