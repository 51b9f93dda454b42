"""What held-out data says of the weights as they are, computed by all workers."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from trellis.tokens import ChatTokenizer
from trellis_jobs.answers import Answerer, Question, questions
from trellis_jobs.distributed.computing import Computing, Reference
from trellis_jobs.evaluation import MAX_LOSS_LINES, Evaluation, groups_of
from trellis_jobs.examples import Examples
from trellis_jobs.methods.objective import Items
from trellis_jobs.shared.divergence import refuse_unmeasured


@dataclass(frozen=True, slots=True)
class Measuring:
    """Measures on the same held-out items; every method is a collective of all workers."""

    computing: Computing
    held_out: Items
    answers: Examples
    tokenizer: ChatTokenizer
    max_answers: int

    def __bool__(self) -> bool:
        return len(self.held_out) > 0

    def losses(self, reference: Reference | None) -> dict[str, float]:
        """The objective's metrics of held-out items, as `valid_…`; empty where none is held out."""
        count = len(self.held_out)
        if not count:
            return {}
        chosen = range(0, count, max(1, -(-count // MAX_LOSS_LINES)))
        metrics, _ = self.computing.measure(self.held_out, chosen, reference)
        refuse_unmeasured(metrics["train_loss"])
        return {f"valid_{name.removeprefix('train_')}": value for name, value in metrics.items()}

    def evaluate(self, reference: Reference | None, measured: Mapping[str, float] | None = None) -> Evaluation:
        """Everything, greedy answers included; losses are not computed again where they are given."""
        found = measured or self.losses(reference)
        asked = questions(self.answers, self.tokenizer, self.max_answers)
        matched = self._matched(asked) if asked else 0
        return Evaluation(
            found.get("valid_loss", 0.0),
            found.get("valid_token_accuracy", 0.0),
            matched / len(asked) if asked else 0.0,
            len(self.held_out),
            len(asked),
        )

    def _matched(self, asked: list[Question]) -> int:
        """How many answers are right. Under ZeRO-3 each token is a collective, so all workers answer all questions."""
        team, engine = self.computing.team, self.computing.engine
        mine = asked if engine.stage == 3 else asked[team.rank :: team.size]
        answerer = Answerer(_Speaker(engine), self.tokenizer, team.device, lambda: None)
        engine.train(False)
        longest_first = sorted(mine, key=lambda question: -len(question.prompt))
        batches = groups_of(longest_first, lambda question: question.room, self.computing.pass_tokens)
        right = sum(answerer.count_exact(batch) for batch in batches)
        return right if engine.stage == 3 else round(team.summed({"right": right})["right"])


class _Speaker:
    """The engine, called as a model of transformers."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __call__(self, **inputs: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self._engine.logits(**inputs))
