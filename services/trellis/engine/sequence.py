"""One answer on its way through the engine: from tokens to text."""

from dataclasses import dataclass
from typing import Self

from trellis.engine.output import Alternative, FinishReason, TokenChance
from trellis.engine.request import Request
from trellis.engine.sampler import Choice, Sampler
from trellis.engine.stop import StopStrings
from trellis.engine.work import Work
from trellis.tokens import ChatTokenizer, StreamDecoder


@dataclass(frozen=True, slots=True)
class Said:
    """What one more token makes of an answer."""

    text: str
    logprobs: tuple[TokenChance, ...]
    finish_reason: FinishReason | None


class Sequence(Work):
    """One of a request's answers: its tokens so far, how the next one is chosen, and how its text is made."""

    def __init__(
        self,
        request: Request,
        index: int,
        sampler: Sampler,
        tokenizer: ChatTokenizer,
        max_tokens: int,
        leader: Self | None = None,
    ) -> None:
        super().__init__(
            list(request.prompt_ids),
            len(request.prompt_ids),
            max_tokens,
            request.tenant,
            request.weight,
            request.adapter,
            leader,
        )
        self.request = request
        self.index = index
        self.sampler = sampler
        self.began: float | None = None
        """When it was first computed, on the engine's clock."""
        self.is_finished = False
        """Whether its last token has come."""
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(tokenizer)
        self._stop = StopStrings(request.stop)

    def append(self, choice: Choice) -> Said:
        """Take the next token in; what it makes of the answer."""
        self.token_ids.append(choice.token_id)
        self.sampler.accept(choice.token_id)
        ends_turn = choice.token_id in self._tokenizer.eos_ids
        text = "" if ends_turn else self._stop.push(self._decoder.push(choice.token_id))
        reason = self._finish_reason(ends_turn)
        if reason is not None:
            text += self._stop.push(self._decoder.finish()) + self._stop.finish()
            reason = self._finish_reason(ends_turn)  # the text that was held back may complete a stop string
        self.is_finished = reason is not None
        return Said(text, () if self.request.logprobs is None else (self._chance(choice),), reason)

    def _finish_reason(self, ends_turn: bool) -> FinishReason | None:
        if ends_turn or self._stop.found:
            return FinishReason.STOP
        return FinishReason.LENGTH if self.answer_tokens >= self.max_tokens else None

    def _chance(self, choice: Choice) -> TokenChance:
        alternatives = tuple(
            Alternative(token_id, self._text_of(token_id), logprob) for token_id, logprob in choice.likeliest
        )
        return TokenChance(choice.token_id, self._text_of(choice.token_id), choice.logprob, alternatives)

    def _text_of(self, token_id: int) -> str:
        return self._tokenizer.decode([token_id], skip_special_tokens=False)
