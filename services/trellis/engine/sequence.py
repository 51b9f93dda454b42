"""A request on its way through the engine."""

from trellis.engine.output import Alternative, FinishReason, Output, TokenChance
from trellis.engine.request import DEFAULT_MAX_TOKENS, Request
from trellis.engine.runner import KeyValues
from trellis.engine.sampler import Choice, Sampler
from trellis.engine.stop import StopStrings
from trellis.errors import TrellisError
from trellis.tokens import ChatTokenizer, StreamDecoder


class Sequence:
    """A request's tokens so far, its keys and values, and how its text is made."""

    def __init__(self, request: Request, tokenizer: ChatTokenizer, context_length: int) -> None:
        self.request = request
        self.sampler = Sampler(request.sampling, request.logprobs)
        self.key_values = KeyValues()
        self.pending_ids: tuple[int, ...] = request.prompt_ids
        """The tokens that the model has not seen yet."""
        self._tokenizer = tokenizer
        self._decoder = StreamDecoder(tokenizer)
        self._stop = StopStrings(request.stop)
        self._count = 0
        left = context_length - len(request.prompt_ids)
        self._max_tokens = min(request.max_tokens or DEFAULT_MAX_TOKENS, left)

    def append(self, choice: Choice) -> Output:
        """Take the next token in; the piece of the answer that it makes."""
        self._count += 1
        self.pending_ids = (choice.token_id,)
        ends_turn = choice.token_id in self._tokenizer.eos_ids
        text = "" if ends_turn else self._stop.push(self._decoder.push(choice.token_id))
        reason = self._finish_reason(ends_turn)
        if reason is not None:
            text += self._stop.push(self._decoder.finish()) + self._stop.finish()
            reason = self._finish_reason(ends_turn)  # the text that was held back may complete a stop string
        return self._output(text, choice, reason)

    def fail(self, error: TrellisError) -> Output:
        """The last piece of an answer that can't go on."""
        prompt_tokens = len(self.request.prompt_ids)
        return Output(self.request.request_id, error=error, prompt_tokens=prompt_tokens, completion_tokens=self._count)

    def _finish_reason(self, ends_turn: bool) -> FinishReason | None:
        if ends_turn or self._stop.found:
            return FinishReason.STOP
        return FinishReason.LENGTH if self._count >= self._max_tokens else None

    def _output(self, text: str, choice: Choice, reason: FinishReason | None) -> Output:
        return Output(
            self.request.request_id,
            text=text,
            token_ids=(choice.token_id,),
            logprobs=() if self.request.logprobs is None else (self._chance(choice),),
            finish_reason=reason,
            prompt_tokens=len(self.request.prompt_ids),
            completion_tokens=self._count,
        )

    def _chance(self, choice: Choice) -> TokenChance:
        alternatives = tuple(
            Alternative(token_id, self._text_of(token_id), logprob) for token_id, logprob in choice.likeliest
        )
        return TokenChance(choice.token_id, self._text_of(choice.token_id), choice.logprob, alternatives)

    def _text_of(self, token_id: int) -> str:
        return self._tokenizer.decode([token_id], skip_special_tokens=False)
