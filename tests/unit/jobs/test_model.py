"""The base as a job takes it: which modules an adapter is laid on, whose tokenizer and of which day."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.unit.tokens import bases

from trellis.bases import BaseModelError
from trellis.errors import InvalidArgument
from trellis.formats import Message
from trellis.spec import Lora, TrainSpec
from trellis.tokens import ChatTokenizer
from trellis.v1.worker_pb2 import StartAttemptResponse
from trellis_jobs.failure import JobFailedError
from trellis_jobs.model import Base, dated, open_base, target_modules

MakeSpec = Callable[..., TrainSpec]


def test_modules_are_all_linears_or_those_named(make_spec: MakeSpec, base: Base) -> None:
    everything = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    assert target_modules(make_spec(), base.facts) == everything
    named = make_spec(lora=Lora(target_modules=("self_attn.v_proj", "q_proj", "q_proj")))
    assert target_modules(named, base.facts) == ("q_proj", "self_attn.v_proj")
    for wrong in ("proj", "lm_head", "embed_tokens"):
        with pytest.raises(InvalidArgument, match=f"no linear module '{wrong}'") as raised:
            target_modules(make_spec(lora=Lora(target_modules=(wrong,))), base.facts)
        assert raised.value.violations[0].field == "tuning_job.supervised.lora.target_modules"


def test_another_base_than_the_registered_one_is_refused(make_spec: MakeSpec) -> None:
    with pytest.raises(BaseModelError, match="no longer the base model"):
        open_base(make_spec(base_revision="sha256:" + "0" * 64))
    with pytest.raises(JobFailedError, match="tokenizer or chat template"):
        open_base(make_spec(tokenizer_digest="0" * 64))


def test_a_job_on_a_later_day_reads_the_same(tmp_path: Path) -> None:
    tokenizer = ChatTokenizer.load(bases.chatml(tmp_path, "{{ strftime_now('%d %b %Y') }} {{ messages[0].content }}"))
    work = StartAttemptResponse()
    assert dated(tokenizer, work) is tokenizer, "a server that does not say when"
    work.job_create_time.FromDatetime(datetime(2026, 2, 28, 23, 59, tzinfo=UTC))
    then = dated(tokenizer, work)
    assert then.decode(then.encode_prompt([Message("user", "hello")])) == "28 Feb 2026 hello"
    assert then.digest == tokenizer.digest
