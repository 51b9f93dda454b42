"""Token losses, however they are computed."""

from typing import Any

import pytest
import torch

from trellis_jobs.batches import collate
from trellis_jobs.device import Device
from trellis_jobs.loss import LossHead
from trellis_jobs.methods.open import Data
from trellis_jobs.model import Base, load_base


def collated(data: Data, lines: list[int], base: Base) -> Any:
    return collate([row for line in lines for row in data.train.rows(line)], base.tokenizer.pad_id)


def test_padding_does_not_touch_a_line(data: Data, base: Base, device: Device) -> None:
    head = LossHead(load_base(base.facts, device), device)
    order = sorted(range(len(data.train)), key=data.train.length)
    lines = [order[0], order[-1]]
    with torch.no_grad():
        together = head(collated(data, lines, base))
        alone = [head(collated(data, [line], base)) for line in lines]
    torch.testing.assert_close(together.losses_N, torch.cat([found.losses_N for found in alone]), rtol=1e-4, atol=1e-5)
    assert together.weights_N.numel() == together.losses_N.numel()


def test_chunks_and_a_head_that_is_not_the_end_give_the_same(
    data: Data, base: Base, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: Any = load_base(base.facts, device)
    batch = collated(data, [0, 1, 2], base)
    plain = LossHead(model, device)(batch)
    whole = LossHead(model, device)
    monkeypatch.setattr(whole, "_logits", None)
    monkeypatch.setattr("trellis_jobs.loss._PIECE_LOGITS", {"cpu": 16 * model.config.vocab_size})
    chunked = LossHead(model, device)(batch)
    for other in (whole(batch), chunked):
        torch.testing.assert_close(other.losses_N, plain.losses_N, rtol=1e-4, atol=1e-5)
        assert torch.equal(other.correct_N, plain.correct_N)


def test_capped_logits_are_noticed(base: Base, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = load_base(base.facts, device)
    monkeypatch.setattr(model.get_output_embeddings(), "forward", lambda hidden: hidden[..., :1] * 0)
    plain = model.forward

    def capped(*args: Any, **named: Any) -> Any:
        out = plain(*args, **named)
        out.logits = out.logits + 1
        return out

    monkeypatch.setattr(model, "forward", capped)
    assert LossHead(model, device)._logits is None
