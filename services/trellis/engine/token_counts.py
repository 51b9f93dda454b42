"""Which tokens a text has, how often, and the penalties on them."""

from array import array
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from trellis.engine.request import Sampling


class TokenCounts:
    """The distinct tokens of a request's prompt and answer, with how often the answer has each.

    Only what the request's penalties look at is kept: nothing without any, and the prompt for the repetition penalty.
    """

    def __init__(self, sampling: Sampling, prompt_ids: Iterable[int]) -> None:
        self.sampling = sampling
        looks_at_prompt = sampling.repetition_penalty != 1.0
        self.is_needed = looks_at_prompt or sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
        """Whether there is any penalty."""
        self._ids = array("q", dict.fromkeys(prompt_ids) if looks_at_prompt else ())
        self._counts = array("f", [0.0]) * len(self._ids)
        self._places = {token_id: place for place, token_id in enumerate(self._ids)}

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def ids(self) -> Tensor:
        """The distinct tokens."""
        return torch.from_numpy(np.array(self._ids))

    @property
    def counts(self) -> Tensor:
        """How often the answer has each of them."""
        return torch.from_numpy(np.array(self._counts))

    def add(self, token_id: int) -> None:
        """Count one more token of the answer."""
        if not self.is_needed:
            return
        place = self._places.setdefault(token_id, len(self._ids))
        if place == len(self._ids):
            self._ids.append(token_id)
            self._counts.append(1.0)
        else:
            self._counts[place] += 1.0


def penalise(logits_NV: Tensor, rows: Sequence[int], counts: Sequence[TokenCounts]) -> None:
    """Apply, in place and to each of the `rows`, the penalties on the tokens that its text has.

    The repetition penalty divides positive and multiplies negative logits of all of them (CTRL, arXiv 1909.05858, as
    transformers' RepetitionPenaltyLogitsProcessor); then the frequency penalty is taken off once for each time that
    the answer has a token, and the presence penalty if it has it at all (OpenAI's API: logit - count * frequency -
    (count > 0) * presence).
    """
    device = logits_NV.device
    lengths = torch.tensor([len(seen) for seen in counts])
    wanted = [
        (s.repetition_penalty, s.frequency_penalty, s.presence_penalty) for s in (seen.sampling for seen in counts)
    ]
    repetition_P, frequency_P, presence_P = (
        torch.tensor(wanted).repeat_interleave(lengths, dim=0).to(device, non_blocking=True).unbind(-1)
    )
    rows_P = torch.tensor(list(rows)).repeat_interleave(lengths).to(device, non_blocking=True)
    ids_P = torch.cat([seen.ids for seen in counts]).to(device, non_blocking=True)
    counts_P = torch.cat([seen.counts for seen in counts]).to(device, non_blocking=True)
    values_P = logits_NV[rows_P, ids_P]
    values_P = torch.where(values_P < 0, values_P * repetition_P, values_P / repetition_P)
    values_P -= counts_P * frequency_P + (counts_P > 0) * presence_P
    logits_NV[rows_P, ids_P] = values_P
